//! Series on small kernels: what applies, and what is said of what does not.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod kernels;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use hmm_harness::events::{Event, Log};
use hmm_harness::results::AppliedPatch;
use hmm_harness::series::{PatchedTree, apply, check, patches};
use hmm_harness::stop::{Fault, Stop};
use kernels::{Home, git, write};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Two commits on a kernel, as `git format-patch` writes them to `out`.
fn two_patches(home: &Home) -> PathBuf {
    let top = home.repository("work");
    edit(&top, "line_9;", "line_three;");
    git(
        &top,
        &[
            "commit",
            "-qam",
            "mm: three\n\nA body.\n\nSigned-off-by: J\u{f6}rg <j@x>",
            "--author=J\u{f6}rg <j@x>",
        ],
    );
    edit(&top, "line_20;", "line_twenty;");
    write(&top, "mm/new.c", "int new;\n");
    git(&top, &["add", "mm/new.c"]);
    git(&top, &["commit", "-qam", "mm: twenty"]);
    git(&top, &["format-patch", "-q", "--cover-letter", "-o", "../out", "HEAD~2"]);
    home.path("out")
}

fn edit(top: &Path, from: &str, to: &str) {
    let path = top.join("mm/a.c");
    let text = fs::read_to_string(&path).unwrap().replace(from, to);
    fs::write(path, text).unwrap();
}

/// What a person is told from here on.
fn listen(home: &mut Home) -> impl Fn() -> Vec<String> + use<> {
    let notes = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&notes);
    home.ctx.log = Log::new(move |event| {
        if let Event::Note { text } = event {
            kept.lock().unwrap().push(text.clone());
        }
    });
    move || std::mem::take(&mut *notes.lock().unwrap())
}

async fn on_kernel(home: &Home, series: &[&Path]) -> Result<PatchedTree, Stop> {
    let source = home.fetch("dir:k").await.unwrap();
    let series: Vec<PathBuf> = series.iter().map(|path| path.to_path_buf()).collect();
    apply(&home.ctx, source, &series, None).await
}

async fn refused(home: &Home, series: &[&Path]) -> Fault {
    match on_kernel(home, series).await {
        Err(Stop::Kernel(fault)) => fault,
        other => panic!("{other:?}"),
    }
}

fn subjects(tree: &PatchedTree) -> Vec<&str> {
    tree.patches.iter().map(|patch| patch.subject.as_str()).collect()
}

fn text(tree: &PatchedTree, name: &str) -> String {
    tree.git.file(&tree.tree, name).unwrap().unwrap()
}

/// What patches became: a mail and a plain diff of the same are written otherwise.
fn commits(patches: &[AppliedPatch]) -> Vec<String> {
    patches.iter().map(|patch| patch.commit.clone()).collect()
}

#[tokio::test]
async fn a_directory_and_an_mbox_of_the_same_patches_give_the_same_commits() {
    let home = Home::new();
    home.kernel("k");
    let dir = two_patches(&home);
    let mbox = home.path("series.mbox");
    let mut all = Vec::new();
    for n in ["0000-cover-letter", "0001-mm-three", "0002-mm-twenty"] {
        all.extend(fs::read(dir.join(format!("{n}.patch"))).unwrap());
    }
    fs::write(&mbox, all).unwrap();

    let one = on_kernel(&home, &[&dir]).await.unwrap();
    assert_eq!(subjects(&one), ["mm: three", "mm: twenty"]);
    assert!(text(&one, "mm/a.c").contains("line_twenty"));
    assert_eq!(text(&one, "mm/new.c"), "int new;\n");
    assert!(!one.reused);
    let other = on_kernel(&home, &[&mbox]).await.unwrap();
    assert_eq!((&one.tree, &one.patches), (&other.tree, &other.patches));

    let commit = one.git.ask(&["cat-file", "commit", &one.patches[0].commit]).unwrap().text();
    assert!(commit.contains("author J\u{f6}rg <j@x> 1593993600"), "{commit}");
    assert!(
        commit.contains("\n\nmm: three\n\nA body.\n\nSigned-off-by: J\u{f6}rg <j@x>"),
        "{commit}"
    );

    let again = on_kernel(&home, &[&dir]).await.unwrap();
    assert!(again.reused);
    assert_eq!((again.tree, again.patches), (one.tree, one.patches));
}

#[tokio::test]
async fn a_plain_diff_is_a_patch_by_its_file_name() {
    let home = Home::new();
    home.kernel("k");
    let dir = two_patches(&home);
    let diff = git(&home.path("work"), &["show", "--format=", "HEAD~1"]);
    for (name, bytes) in [
        ("plain.diff", format!("{diff}\n")),
        ("shown.diff", format!("commit 0123\nAuthor: A <a@b>\n\n    text\n\n{diff}\n")),
        ("dos.diff", format!("{diff}\n").replace('\n', "\r\n")),
    ] {
        let path = home.path(name);
        fs::write(&path, bytes).unwrap();
        let tree = on_kernel(&home, &[&path]).await.unwrap_or_else(|stop| panic!("{name}: {stop}"));
        assert_eq!(subjects(&tree), [name]);
        assert!(text(&tree, "mm/a.c").contains("line_three"));
    }
    let both = [home.path("plain.diff"), dir.join("0002-mm-twenty.patch")];
    let both = on_kernel(&home, &[&both[0], &both[1]]).await.unwrap();
    assert_eq!(subjects(&both), ["plain.diff", "mm: twenty"]);
}

#[tokio::test]
async fn an_encoded_mail_is_decoded() {
    let home = Home::new();
    home.kernel("k");
    two_patches(&home);
    let diff = git(&home.path("work"), &["show", "--format=", "HEAD~1"]).replace('=', "=3D");
    let mail = format!(
        "From: =?iso-8859-1?q?J=F6rg?= <j@x>\nSubject: [RFC PATCH v2 1/2] =?utf-8?q?mm=3A_gr=C3=BCn?=\n\
         Content-Type: text/plain; charset=iso-8859-1\nContent-Transfer-Encoding: quoted-printable\n\n\
         Gr=FC=DFe\n---\n{diff}\n"
    );
    write(home.dir.path(), "mail.patch", &mail);
    let tree = on_kernel(&home, &[&home.path("mail.patch")]).await.unwrap();
    assert_eq!(subjects(&tree), ["mm: gr\u{fc}n"]);
    let commit = tree.git.ask(&["cat-file", "commit", &tree.patches[0].commit]).unwrap().text();
    assert!(
        commit.contains("author J\u{f6}rg <j@x>") && commit.contains("Gr\u{fc}\u{df}e"),
        "{commit}"
    );
}

#[tokio::test]
async fn the_patch_that_does_not_apply_is_named_with_its_hunk() {
    let home = Home::new();
    let top = home.kernel("k");
    let dir = two_patches(&home);
    edit(&top, "line_20;", "something_else;");
    let fault = refused(&home, &[&dir]).await;
    for part in ["\"mm: twenty\"", "0002-mm-twenty.patch", "mm/a.c, hunk 1 (@@ -17,7 +17,7 @@"] {
        assert!(fault.what.contains(part), "{part}: {}", fault.what);
    }
    let details = fault.details.join("\n");
    assert!(details.contains("patch failed: mm/a.c:17"), "{details}");
    assert!(details.contains("    20 int something_else;"), "{details}");

    fs::remove_file(top.join("mm/a.c")).unwrap();
    let fault = refused(&home, &[&dir]).await;
    assert!(fault.what.contains("mm/a.c: the tree has no such file"), "{}", fault.what);
}

#[tokio::test]
async fn already_applied_is_told_apart() {
    let home = Home::new();
    let top = home.kernel("k");
    let dir = two_patches(&home);
    edit(&top, "line_9;", "line_three;");
    let fault = refused(&home, &[&dir]).await;
    assert!(
        fault.what.contains("\"mm: three\" (0001-mm-three.patch) is already applied"),
        "{}",
        fault.what
    );
    // In front of other changes, where only merging can tell.
    home.repository("k2");
    edit(&top, "line_5;", "line_five;");
    let fault = refused(&home, &[&dir]).await;
    assert!(fault.what.contains("mm: three"), "{}", fault.what);
}

#[tokio::test]
async fn what_has_moved_or_can_be_merged_is_applied() {
    let mut home = Home::new();
    let notes = listen(&mut home);
    let top = home.kernel("k");
    let dir = two_patches(&home);
    let path = top.join("mm/a.c");
    fs::write(&path, format!("// one\n// two\n{}", fs::read_to_string(&path).unwrap())).unwrap();
    let moved = on_kernel(&home, &[&dir]).await.unwrap();
    assert!(text(&moved, "mm/a.c").contains("line_twenty"));
    let offset = "applies with an offset of 2 lines";
    assert_eq!(notes(), [format!("\"mm: three\" {offset}"), format!("\"mm: twenty\" {offset}")]);
    // Git can merge as long as the store has the files that the patches saw.
    let fresh = home.kernel("k");
    on_kernel(&home, &[&dir]).await.unwrap();
    edit(&fresh, "line_17;", "seventeen;");
    assert_eq!(notes(), [""; 0]);
    let merged = on_kernel(&home, &[&dir]).await.unwrap();
    let how = "was merged, for it was made for another version of its files";
    assert_eq!(notes(), [format!("\"mm: twenty\" {how}")]);
    let text = text(&merged, "mm/a.c");
    assert!(text.contains("int seventeen;") && text.contains("line_twenty"), "{text}");
}

#[test]
fn what_is_no_series_is_said_before_anything_is_done() {
    let home = Home::new();
    fs::create_dir(home.path("empty")).unwrap();
    write(home.dir.path(), "text/readme", "x");
    write(home.dir.path(), "nothing.patch", "");
    write(home.dir.path(), "prose.patch", "just words\n");
    write(home.dir.path(), "covers/0000-x.patch", "From: a\nSubject: [PATCH 0/1] x\n\nwords\n");
    write(home.dir.path(), "cut/0001-x.patch", "From: a\nSubject: [PATCH 1/1] x\n\nwords\n");
    for (name, what) in [
        ("gone", "cannot read"),
        ("empty", "holds no patch"),
        ("text", "holds no patch"),
        ("covers", "holds no patch"),
        ("cut", "has no diff"),
        ("nothing.patch", "is empty"),
        ("prose.patch", "has no diff"),
    ] {
        let problems = check(&[home.path(name)]);
        let [problem] = &problems[..] else { panic!("{name}: {problems:?}") };
        assert!(problem.what.contains(what), "{name}: {}", problem.what);
        assert!(problem.hint.is_some(), "{name} has no hint");
    }
    assert_eq!(check(&["git:/nowhere@a..b".into()]).len(), 1);
    assert_eq!(check(&[home.path("gone"), home.path("empty")]).len(), 2);
    assert_eq!(check(&[]), []);
}

#[tokio::test]
async fn broken_patches_are_refused_and_nothing_else() {
    let home = Home::new();
    home.kernel("k");
    let head = "diff --git a/mm/a.c b/mm/a.c\n--- a/mm/a.c\n+++ b/mm/a.c\n";
    let broken: [(&str, Vec<u8>); 7] = [
        ("cut", format!("{head}@@ -1,3 +1,3 @@\n int line_1;\n").into()),
        ("headless", b"diff --git a/mm/a.c b/mm/a.c\n".to_vec()),
        ("nul", format!("{head}@@ -1 +1 @@\n-int \0;\n+x\n").into()),
        (
            "binary",
            b"diff --git a/x b/x\nindex 123..456 100644\nBinary files a/x and b/x differ\n"
                .to_vec(),
        ),
        ("latin", [head.as_bytes(), b"@@ -1 +1 @@\n-int \xe4;\n+x\n"].concat()),
        ("numbers", format!("{head}@@ -99999999999999999999,1 +1 @@\n-a\n+b\n").into()),
        ("outside", b"--- a/../../x\n+++ b/../../x\n@@ -0,0 +1 @@\n+a\n".to_vec()),
    ];
    for (name, bytes) in broken {
        for mail in [false, true] {
            let path = home.path(&format!("{name}.patch"));
            let head = if mail { "From: A <a@b>\nSubject: [PATCH] x\n\n---\n" } else { "" };
            fs::write(&path, [head.as_bytes(), &bytes].concat()).unwrap();
            let fault = refused(&home, &[&path]).await;
            assert!(fault.what.contains(name), "{name}: {}", fault.what);
        }
    }
}

/// The mails of a thread, one behind the other.
fn mbox(home: &Home, name: &str, mails: &[String]) -> PathBuf {
    let from = "From mboxrd@z Thu Jan  1 00:00:00 1970\n";
    let text: String = mails.iter().map(|mail| format!("{from}{mail}\n")).collect();
    write(home.dir.path(), name, &text);
    home.path(name)
}

/// A mail with a diff, or with none.
fn mail(subject: &str, body: &str) -> String {
    format!("From: A <a@b>\nSubject: {subject}\nMessage-Id: <{}@b>\n\n{body}", subject.len())
}

/// The diffs of [`two_patches`].
fn two_diffs(home: &Home) -> [String; 2] {
    two_patches(home);
    ["HEAD~1", "HEAD"].map(|rev| {
        format!("text\n---\n{}\n-- \n2.1\n", git(&home.path("work"), &["show", "--format=", rev]))
    })
}

#[tokio::test]
async fn a_thread_gives_the_newest_version_in_its_order() {
    let mut home = Home::new();
    let notes = listen(&mut home);
    home.kernel("k");
    let [one, two] = two_diffs(&home);
    let quoted: String = one.lines().map(|line| format!("> {line}\n")).collect();
    let thread = [
        mail("[PATCH 1/1] mm: both at once", &two),
        mail("[PATCH v2 2/2] mm: twenty", &two),
        mail("Re: [PATCH v2 1/2] mm: three", &format!("why?\n{quoted}")),
        mail("[PATCH v2 0/2] mm: all", "a cover letter\n"),
        mail("[PATCH v2 1/2] mm: three", &one),
        mail("[PATCH] mm: on =?utf-8?q?t=1b[31mop?=", &one),
    ];
    let path = mbox(&home, "thread.mbox", &thread);
    let tree = on_kernel(&home, &[&path]).await.unwrap();
    assert_eq!(subjects(&tree), ["mm: three", "mm: twenty"]);
    let told =
        ["thread.mbox: 2 patches of v2 taken, left out: \"mm: on t[31mop\", which has no number, \
         v1 (1 patch)"];
    assert_eq!(notes(), told);
    // What is in the store is told of again.
    assert!(on_kernel(&home, &[&path]).await.unwrap().reused);
    assert_eq!(notes(), told);

    for (n, mail) in thread.iter().enumerate() {
        let dir = if n % 2 == 0 { "cur" } else { "new" };
        write(&home.path("Maildir"), &format!("{dir}/{}.host:2,S", 9 - n), mail);
    }
    let same = on_kernel(&home, &[&home.path("Maildir")]).await.unwrap();
    assert_eq!((same.tree, commits(&same.patches)), (tree.tree, commits(&tree.patches)));

    let half = mbox(&home, "half.mbox", &thread[..3]);
    let Err(Stop::Usage { problems }) = on_kernel(&home, &[&half]).await else { panic!("half") };
    assert!(problems[0].what.ends_with("half.mbox: patch 1/2 of v2 is missing"), "{problems:?}");
}

#[tokio::test]
async fn what_mailers_do_to_a_patch_is_undone() {
    let home = Home::new();
    home.kernel("k");
    let [one, _] = two_diffs(&home);
    let plain = on_kernel(&home, &[&mbox(&home, "plain", &[mail("[PATCH] x", &one)])]).await;
    let plain = plain.unwrap().tree;
    let head = "From: A <a@b>\nSubject: [PATCH] x\nMIME-Version: 1.0\nContent-Type: text/plain";
    // Stuffed, and broken at the first space of the hunk's head.
    let stuffed = one.lines().map(|line| match line.split_at_checked(3) {
        Some(("@@ ", rest)) => format!("@@ \n{rest}\n"),
        _ if line.starts_with([' ', '>']) => format!(" {line}\n"),
        _ => format!("{line}\n"),
    });
    let dos = one.replace('\n', "\r\n");
    let shell = xshell::Shell::new().unwrap();
    let base64 = xshell::cmd!(shell, "base64").stdin(&dos).quiet().read().unwrap();
    for (name, mail) in [
        ("flowed", format!("{head}; format=flowed\n\n{}", stuffed.collect::<String>())),
        ("dos", mail("[PATCH] x", &one).replace('\n', "\r\n")),
        ("base64", format!("{head}\nContent-Transfer-Encoding: base64\n\n{base64}\n")),
    ] {
        let path = mbox(&home, name, &[mail]);
        let tree = on_kernel(&home, &[&path]).await.unwrap_or_else(|stop| panic!("{name}: {stop}"));
        assert_eq!(tree.tree, plain, "{name}");
        assert_eq!(subjects(&tree), ["x"], "{name}");
    }
}

#[tokio::test]
async fn commits_of_a_repository_are_a_series() {
    let home = Home::new();
    home.kernel("k");
    let dir = two_patches(&home);
    let top = home.path("work");
    git(&top, &["config", "format.attach", "true"]);
    git(&top, &["tag", "base", "HEAD~2"]);
    let range = format!("git:{}@base..main", top.display());
    let tree = on_kernel(&home, &[Path::new(&range)]).await.unwrap();
    let same = on_kernel(&home, &[&dir]).await.unwrap();
    assert_eq!((tree.tree, commits(&tree.patches)), (same.tree, commits(&same.patches)));

    git(&top, &["checkout", "-q", "-b", "side", "base"]);
    write(&top, "mm/b.c", "int side;\n");
    git(&top, &["commit", "-qam", "[mm] side"]);
    git(&top, &["merge", "-q", "main"]);
    for (range, what) in [
        ("base..base", "has no commits"),
        ("base..side", "has merges"),
        ("base..gone", "has no commit `gone`"),
        ("base", "is no range of commits"),
        ("base...main", "is no range of commits"),
        ("--all..main", "is no range of commits"),
    ] {
        let problems = check(&[format!("git:{}@{range}", top.display()).into()]);
        let [problem] = &problems[..] else { panic!("{range}: {problems:?}") };
        assert!(problem.what.contains(what) && problem.hint.is_some(), "{problem:?}");
    }
    let side = format!("git:{}@base..side~1", top.display());
    let side = on_kernel(&home, &[Path::new(&side)]).await.unwrap();
    assert_eq!(subjects(&side), ["[mm] side"], "a commit's subject is its own");
}

#[tokio::test]
async fn what_a_series_was_made_for_is_told_where_it_is_not_there() {
    let mut home = Home::new();
    let notes = listen(&mut home);
    let [one, two] = two_diffs(&home);
    let top = home.path("work");
    let base = git(&top, &["rev-parse", "HEAD~2"]);
    let with = |more: &str| mail("[PATCH] x", &format!("{one}\n{more}\n"));
    let on = async |name: &str, more: &str, rev: &str| {
        let path = mbox(&home, name, &[with(more)]);
        let source = home.fetch(&format!("git:work@{rev}")).await.unwrap();
        apply(&home.ctx, source, &[path], None).await.unwrap();
        notes()
    };
    assert_eq!(on("own", &format!("base-commit: {base}"), "HEAD~2").await, [""; 0]);
    let gone = "0123456789abcdef0123456789abcdef01234567";
    assert_eq!(
        on("gone", &format!("base-commit: {gone}"), "HEAD~2").await,
        ["the series was made for commit 0123456789ab, which is not there to compare"]
    );
    write(&top, "mm/b.c", "int other;\n");
    git(&top, &["commit", "-qam", "other"]);
    git(&top, &["revert", "--no-edit", "HEAD~1", "HEAD~2"]);
    let other = format!("the series was made for commit {}, and goes on another tree", &base[..12]);
    assert_eq!(on("other", &format!("base-commit: {base}"), "HEAD").await, [other]);
    let needs = format!("prerequisite-patch-id: {gone}");
    assert_eq!(
        on("needs", &needs, "HEAD").await,
        ["the series was made on top of patches that are not given here: 0123456789ab"]
    );
    write(home.dir.path(), "diff", &two);
    let diff = fs::read(home.path("diff")).unwrap();
    let shell = xshell::Shell::new().unwrap();
    let id = xshell::cmd!(shell, "git patch-id --stable").stdin(diff).quiet().read().unwrap();
    let id = id.split(' ').next().unwrap();
    let both = [
        mail("[PATCH 1/2] two", &two),
        mail("[PATCH 2/2] one", &format!("{one}\nprerequisite-patch-id: {id}\n")),
    ];
    let source = home.fetch("git:work@HEAD").await.unwrap();
    apply(&home.ctx, source, &[mbox(&home, "both", &both)], None).await.unwrap();
    assert_eq!(notes(), [""; 0]);
}

/// What a mutation puts into a mailbox.
const TOKENS: [&[u8]; 16] = [
    b"From ",
    b"\n\n",
    b"\r\n",
    b"Subject: [PATCH v2 2/2] ",
    b"[PATCH 999999999999/2]",
    b"Message-Id: <1@b>\n",
    b"Content-Transfer-Encoding: base64\n",
    b"Content-Type: multipart/mixed; boundary=\"x\"\n",
    b"Content-Type: text/plain; charset=utf-7; format=flowed\n",
    b"=\n",
    b"diff --git a/mm/a.c b/mm/a.c\n",
    b"@@ -1,1 +1,1 @@\n",
    b"--- a/../../outside\n",
    b"GIT binary patch\n",
    b"\0",
    b"\xff\xfe",
];

/// Something that happens to a mailbox, at a place in it.
#[derive(Debug, Clone)]
enum Mutation {
    Insert(usize),
    Cut(usize),
    Repeat(usize),
    Change(u8),
    End,
}

fn mutated(text: &[u8], mutations: &[(prop::sample::Index, Mutation)]) -> Vec<u8> {
    let mut bytes = text.to_vec();
    for (at, mutation) in mutations {
        if bytes.is_empty() {
            return bytes;
        }
        let at = at.index(bytes.len());
        let until = |length: usize| (at + length).min(bytes.len());
        match mutation {
            Mutation::Insert(token) => drop(bytes.splice(at..at, TOKENS[*token].iter().copied())),
            Mutation::Cut(length) => drop(bytes.drain(at..until(*length))),
            Mutation::Repeat(length) => {
                let again = bytes[at..until(*length)].to_vec();
                bytes.splice(at..at, again);
            }
            Mutation::Change(to) => bytes[at] = *to,
            Mutation::End => bytes.truncate(at),
        }
    }
    bytes
}

#[test]
fn a_mailbox_that_was_mangled_gives_all_of_its_patches_or_none() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let home = Home::new();
    home.kernel("k");
    let [one, two] = two_diffs(&home);
    let whole = mbox(
        &home,
        "whole.mbox",
        &[
            mail("[PATCH v2 0/2] mm: all", "a cover letter\n"),
            mail("[PATCH v2 2/2] mm: twenty", &two),
            mail("[PATCH v2 1/2] mm: three", &one),
        ],
    );
    let text = fs::read(&whole).unwrap();
    let good = runtime.block_on(on_kernel(&home, &[&whole])).unwrap().tree;
    let mutation = prop_oneof![
        3 => (0..TOKENS.len()).prop_map(Mutation::Insert),
        2 => (1..400usize).prop_map(Mutation::Cut),
        1 => (1..400usize).prop_map(Mutation::Repeat),
        2 => any::<u8>().prop_map(Mutation::Change),
        1 => Just(Mutation::End),
    ];
    let mutations = prop::collection::vec((any::<prop::sample::Index>(), mutation), 1..6);
    let mut runner = TestRunner::new(Config { cases: 48, ..Config::default() });
    runner
        .run(&mutations, |mutations| {
            let path = home.path("mangled.mbox");
            fs::write(&path, mutated(&text, &mutations)).unwrap();
            match runtime.block_on(on_kernel(&home, &[&path])) {
                Ok(tree) => {
                    let offered = runtime.block_on(patches(&home.ctx, &path)).unwrap();
                    let offered: Vec<&str> =
                        offered.iter().map(|patch| patch.subject.as_str()).collect();
                    prop_assert_eq!(subjects(&tree), offered);
                }
                Err(Stop::Kernel(_) | Stop::Usage { .. }) => {}
                Err(other) => prop_assert!(false, "{}", other),
            }
            let again = runtime.block_on(on_kernel(&home, &[&whole])).unwrap();
            prop_assert_eq!(&again.tree, &good);
            Ok(())
        })
        .unwrap();
}
