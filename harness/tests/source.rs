//! Sources on this machine: what gets into the tree, and that nothing is
//! written where it comes from.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod kernels;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use hmm_harness::source::{Source, SourceTree};
use hmm_harness::stop::Stop;
use kernels::{Home, git, write};

#[tokio::test]
async fn a_work_tree_comes_with_its_uncommitted_changes_and_stays_as_it_is() {
    let home = Home::new();
    let top = home.repository("k");
    write(&top, "mm/a.c", "int edited;\n");
    write(&top, "mm/staged.c", "int staged;\n");
    git(&top, &["add", "mm/staged.c"]);
    write(&top, "mm/staged.c", "int staged_and_edited;\n");
    write(&top, "mm/intended.c", "int intended;\n");
    git(&top, &["add", "-N", "mm/intended.c"]);
    write(&top, "mm/untracked.c", "int untracked;\n");
    fs::remove_file(top.join("mm/b.c")).unwrap();
    fs::set_permissions(top.join("Kconfig"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("mm/a.c", top.join("link")).unwrap();
    git(&top, &["add", "link"]);
    // What would run if anything of theirs were used.
    let trap = format!("touch {}", home.path("trapped").display());
    git(&top, &["config", "core.fsmonitor", &trap]);
    git(&top, &["config", "filter.trap.clean", &trap]);
    git(&top, &["config", "core.hooksPath", "hooks"]);
    write(&top, ".git/info/attributes", "* filter=trap\n");

    let before = state(&top);
    let first = home.fetch("git:k").await.unwrap();
    let again = home.fetch("git:k").await.unwrap();
    assert_eq!(state(&top), before, "something was written in the caller's directory");
    assert!(!home.path("trapped").exists(), "a program of the caller's configuration ran");

    assert_eq!(
        names(&first),
        [
            "100644 .gitignore",
            "100755 Kconfig",
            "100644 Makefile",
            "100644 lib/test_hmm.c",
            "120000 link",
            "100644 mm/a.c",
            "100644 mm/intended.c",
            "100644 mm/staged.c",
        ]
    );
    assert_eq!(text(&first, "mm/a.c"), "int edited;\n");
    assert_eq!(text(&first, "mm/staged.c"), "int staged_and_edited;\n");
    assert_eq!(first.version, (6, 12, 3));
    assert!(first.described.ends_with("with uncommitted changes"), "{}", first.described);
    assert_eq!(first.tree, again.tree);
}

#[tokio::test]
async fn a_change_that_comes_back_is_seen_each_time() {
    let home = Home::new();
    let top = home.repository("k");
    let clean = home.fetch("git:k").await.unwrap();
    assert_eq!(clean.tree.0, git(&top, &["rev-parse", "HEAD^{tree}"]));
    assert!(!clean.described.contains("uncommitted"), "{}", clean.described);
    // As long as before and within the same second: only the time tells.
    write(&top, "mm/b.c", "int c;\n");
    assert_eq!(text(&home.fetch("git:k").await.unwrap(), "mm/b.c"), "int c;\n");
    fs::remove_file(top.join("mm/b.c")).unwrap();
    assert!(!names(&home.fetch("git:k").await.unwrap()).contains(&"100644 mm/b.c".to_owned()));
    write(&top, "mm/b.c", "int b;\n");
    assert_eq!(home.fetch("git:k").await.unwrap().tree, clean.tree);
    write(&top, "mm/b.c", "int d;\n");
    git(&top, &["commit", "-qam", "next"]);
    assert_eq!(text(&home.fetch("git:k").await.unwrap(), "mm/b.c"), "int d;\n");
}

#[tokio::test]
async fn revisions_are_found_wherever_git_finds_them() {
    let home = Home::new();
    let top = home.repository("k");
    let tree = git(&top, &["rev-parse", "HEAD^{tree}"]);
    git(&top, &["tag", "-a", "-m", "x", "v1"]);
    write(&top, "mm/b.c", "int next;\n");
    git(&top, &["commit", "-qam", "next"]);
    git(&top, &["clone", "-q", "--bare", ".", "../bare.git"]);
    git(&top, &["clone", "-q", "--shared", ".", "../shared"]);
    git(&top, &["worktree", "add", "-q", "--detach", "../linked", "v1"]);
    git(&top, &["clone", "-q", ".", "../with:colon@home"]);

    let before = state(&top);
    for text in [
        "git:k@v1",
        "git:k@HEAD~1",
        "git:k/mm@main~1",
        "git:k@HEAD@{1}",
        "git:bare.git@v1",
        "git:shared@v1",
        "git:linked",
        "git:linked@HEAD",
        "git:with:colon@home@v1",
    ] {
        let found = home.fetch(text).await.unwrap_or_else(|stop| panic!("{text}: {stop}"));
        assert_eq!(found.tree.0, tree, "{text}");
    }
    let whole = home.fetch("git:with:colon@home").await.unwrap();
    assert_eq!(text(&whole, "mm/b.c"), "int next;\n");
    assert_eq!(state(&top), before);
}

#[tokio::test]
async fn split_indexes_and_untracked_caches_are_read_and_left_alone() {
    let home = Home::new();
    let top = home.repository("k");
    git(&top, &["update-index", "--split-index", "--untracked-cache"]);
    write(&top, "mm/new.c", "int new;\n");
    git(&top, &["add", "mm/new.c"]);
    write(&top, "mm/b.c", "int edited;\n");
    let before = state(&top);
    let found = home.fetch("git:k").await.unwrap();
    assert_eq!(state(&top), before);
    assert_eq!(text(&found, "mm/new.c"), "int new;\n");
    assert_eq!(text(&found, "mm/b.c"), "int edited;\n");
    assert_eq!(text(&found, "lib/test_hmm.c"), "int hmm;\n");
}

#[tokio::test]
async fn a_merge_is_taken_as_far_as_it_is_resolved() {
    let home = Home::new();
    let top = home.repository("k");
    git(&top, &["checkout", "-q", "-b", "other"]);
    write(&top, "mm/b.c", "int theirs;\n");
    git(&top, &["commit", "-qam", "theirs"]);
    git(&top, &["checkout", "-q", "main"]);
    write(&top, "mm/b.c", "int ours;\n");
    git(&top, &["commit", "-qam", "ours"]);
    let shell = xshell::Shell::new().unwrap();
    let merge = xshell::cmd!(shell, "git -C {top} -c user.name=x -c user.email=x@y merge other");
    let merge = merge.ignore_status();
    merge.ignore_stdout().ignore_stderr().quiet().run().unwrap();

    let Err(Stop::Kernel(fault)) = home.fetch("git:k").await else {
        panic!("taken with its markers")
    };
    assert!(fault.what.contains("mm/b.c has merge conflicts"), "{}", fault.what);
    write(&top, "mm/b.c", "int both;\n");
    assert_eq!(text(&home.fetch("git:k").await.unwrap(), "mm/b.c"), "int both;\n");
}

#[tokio::test]
async fn a_directory_comes_without_what_it_ignores() {
    let home = Home::new();
    let top = home.kernel("k");
    // As a distribution has it, and with the tree built in.
    write(&top, ".gitignore", ".*\n*.o\n/vmlinux\n/include/generated/\n/*\n!/debian/\n");
    for product in [".config", "mm/a.o", "mm/.a.o.cmd", "vmlinux", "include/generated/x.h"] {
        write(&top, product, "built\n");
    }
    write(&top, "mm/.kunitconfig", "CONFIG_KUNIT=y\n");
    write(&top, "odd [name]/a b.c", "int odd;\n");
    write(&top, "include/x.h", "int x;\n");
    git(&top, &["init", "-q"]);

    let before = state(&top);
    let found = home.fetch("dir:k").await.unwrap();
    assert_eq!(state(&top), before);
    assert!(!found.reused);
    assert_eq!(
        names(&found),
        [
            "100644 .gitignore",
            "100644 Kconfig",
            "100644 Makefile",
            "100644 include/x.h",
            "100644 lib/test_hmm.c",
            "100644 mm/.kunitconfig",
            "100644 mm/a.c",
            "100644 mm/b.c",
            "100644 odd [name]/a b.c",
        ]
    );
    assert!(home.fetch("dir:k").await.unwrap().reused);

    write(&top, "mm/b.c", "int c;\n");
    write(&top, "mm/new.c", "int new;\n");
    fs::remove_file(top.join("mm/a.c")).unwrap();
    write(&top, "include/.gitignore", "x.h\n");
    let changed = home.fetch("dir:k").await.unwrap();
    assert_eq!(text(&changed, "mm/b.c"), "int c;\n");
    let names = names(&changed).join("\n");
    assert!(names.contains("mm/new.c") && !names.contains("mm/a.c"), "{names}");
    assert!(!names.contains("x.h"), "{names}");
}

#[tokio::test]
async fn bytes_stay_what_they_are() {
    let home = Home::new();
    let top = home.kernel("k");
    write(&top, ".gitattributes", "* text=auto eol=lf ident\n");
    write(&top, "mm/dos.c", "int $Id$;\r\nint b;\r\n");
    let found = home.fetch("dir:k").await.unwrap();
    assert_eq!(text(&found, "mm/dos.c"), "int $Id$;\r\nint b;\r\n");
}

#[tokio::test]
async fn what_is_wrong_is_said_before_anything_is_done() {
    let home = Home::new();
    let top = home.repository("k");
    git(&top, &["clone", "-q", "--bare", ".", "../bare.git"]);
    git(&top, &["init", "-q", "--object-format=sha256", "../sha256"]);
    write(home.dir.path(), "empty/x", "");
    write(home.dir.path(), "file", "");
    git(home.dir.path(), &["init", "-q", "other"]);
    git(&home.path("other"), &["commit", "-q", "--allow-empty", "-m", "x"]);
    let before = state(home.dir.path());
    for (text, what) in [
        ("dir:gone", "cannot find"),
        ("dir:file", "is not a directory"),
        ("dir:empty", "is not a kernel's source"),
        ("git:gone", "cannot find"),
        ("git:empty", "is not in a git repository"),
        ("git:bare.git", "has no work tree"),
        ("git:k@v9", "has no commit `v9`"),
        ("git:other", "is not a kernel's source"),
        ("git:other@HEAD", "is not a kernel's source"),
        ("git:sha256", "by sha256"),
    ] {
        let problems = Source::parse(text, home.dir.path()).unwrap().check();
        let [problem] = &problems[..] else { panic!("{text}: {problems:?}") };
        assert!(problem.what.contains(what), "{text}: {}", problem.what);
        assert!(problem.hint.is_some(), "{text} has no hint");
        assert!(matches!(home.fetch(text).await, Err(Stop::Usage { .. })), "{text}");
    }
    for text in ["dir:k", "git:k", "git:k@HEAD", "git:bare.git@HEAD", "debian:linux-source-6.12"] {
        assert_eq!(Source::parse(text, home.dir.path()).unwrap().check(), [], "{text}");
    }
    let after: Vec<_> = state(home.dir.path()).into_keys().collect();
    let made = after.iter().filter(|path| !before.contains_key(*path));
    assert_eq!(
        made.filter(|p| !p.starts_with(home.path("store"))).collect::<Vec<_>>(),
        [] as [&Path; 0]
    );
}

#[tokio::test]
async fn a_kernel_without_hmm_tests_is_not_judgeable() {
    let home = Home::new();
    let top = home.kernel("k");
    fs::remove_file(top.join("lib/test_hmm.c")).unwrap();
    let Err(stop) = home.fetch("dir:k").await else { panic!("taken") };
    assert_eq!(stop.exit_code(), 125);
    assert!(stop.to_string().contains("5.8"), "{stop}");
}

/// The names of a tree's files, each with its mode.
fn names(source: &SourceTree) -> Vec<String> {
    let said = source.git.ask(&["ls-tree", "-r", "--format=%(objectmode) %(path)", &source.tree.0]);
    said.unwrap().text().lines().map(Into::into).collect()
}

fn text(source: &SourceTree, name: &str) -> String {
    source.git.file(&source.tree, name).unwrap().unwrap_or_else(|| panic!("no {name}"))
}

/// Everything below a directory: content, mode and time of each.
fn state(dir: &Path) -> BTreeMap<PathBuf, (u32, i64, i64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(path) = left.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let content = if meta.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            Vec::new()
        } else if meta.is_symlink() {
            fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
        } else {
            fs::read(&path).unwrap()
        };
        let entry = (meta.permissions().mode(), meta.mtime(), meta.mtime_nsec(), content);
        found.insert(path, entry);
    }
    found
}
