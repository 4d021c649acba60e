//! From a package to a tree, without unpacking anything to disk.
//!
//! Three children and two threads of ours in a row: `dpkg-deb` writes the
//! package's files as a tar stream, in which the kernel's source is one
//! compressed archive; that goes through `xz`, and what comes out goes, file
//! by file, into `git fast-import`. Nothing of it is seen in the store before
//! the pack is whole.

use std::fs;
use std::io::{self, BufReader, PipeReader, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Context as _, Result};
use tar::{Archive, EntryType};
use tokio::task::spawn_blocking;

use crate::context::Context;
use crate::events::Log;
use crate::flow::Stage;
use crate::git::{Git, TreeId};
use crate::proc::{Cmd, Ended};
use crate::source::{MAKE_SPACE, disk_full};
use crate::stop::{Fault, Problem, Stop};

/// The reference that an import makes; the store's own name for it follows.
const IMPORTED: &str = "refs/heads/imported";

/// How a child ends that writes to a pipe nobody reads: by SIGPIPE.
const PIPE_CLOSED: i32 = 128 + 13;

/// How many bytes go through a pipe at a time.
const CHUNK: usize = 256 * 1024;

/// Imports the source that `deb` holds, by way of the empty directory `work`,
/// and keeps it in the store's repository as `reference`.
pub(super) async fn package(
    ctx: &Context,
    deb: &Path,
    work: &Path,
    reference: &str,
) -> Result<TreeId, Stop> {
    let store = Git::of(&ctx.store)?;
    let own = Git::at(&work.join("import.git"))?.with_alternate(&store.objects());
    stream(ctx, deb, &own).await?;

    let commit = own.ask(&["rev-parse", "--verify", IMPORTED])?.text();
    let tree = own.ask(&["rev-parse", "--verify", &format!("{IMPORTED}^{{tree}}")])?.text();
    move_packs(&own, &store).context("cannot move the imported pack into the store")?;
    let kept = store.ask(&["update-ref", reference, &commit])?;
    if !kept.success {
        return Err(
            anyhow::anyhow!("cannot keep the import: {}", kept.complaints.join("; ")).into()
        );
    }
    Ok(TreeId(tree))
}

/// Lets the package run through the children into `git`.
async fn stream(ctx: &Context, deb: &Path, git: &Git) -> Result<(), Stop> {
    let pipe = || io::pipe().context("cannot make a pipe");
    let (from_deb, deb_out) = pipe()?;
    let (xz_in, to_xz) = pipe()?;
    let (from_xz, xz_out) = pipe()?;
    let (import_in, to_import) = pipe()?;

    let dpkg = through(&Cmd::new("dpkg-deb").arg("--fsys-tarfile").arg(deb), ">&3");
    let xz = through(&Cmd::new("xz").args(["--decompress", "--stdout"]), "<&3 >&4");
    let import = git.long(&["fast-import", "--quiet", "--done", "--depth=0", "--force"]);
    let import = through(&import, "<&3");

    let log = ctx.log.clone();
    let unpack = spawn_blocking(move || inner_archive(from_deb, to_xz, &log));
    let convert = spawn_blocking(move || {
        let mut to = io::BufWriter::with_capacity(CHUNK, to_import);
        convert(BufReader::with_capacity(CHUNK, from_xz), &mut to)?;
        to.flush()
    });
    let run = |cmd: Cmd, fds: Vec<OwnedFd>| async move {
        cmd.run_with(fds, &ctx.interrupt, |_| ()).await
    };
    let (dpkg, xz, import, unpacked, converted) = tokio::join!(
        run(dpkg, vec![deb_out.into()]),
        run(xz, vec![xz_in.into(), xz_out.into()]),
        run(import, vec![import_in.into()]),
        unpack,
        convert,
    );
    ctx.interrupt.check()?;
    let unpacked = unpacked.context("a thread of the import ended")?;
    let converted = converted.context("a thread of the import ended")?;
    judge(deb, [dpkg?, xz?, import?], [unpacked, converted])
}

/// Whose fault it was. A member of the row that fails takes those before it
/// along by closing its pipe, and those after it by ending their input.
fn judge(deb: &Path, children: [Ended; 3], threads: [io::Result<()>; 2]) -> Result<(), Stop> {
    let name = deb.file_name().unwrap_or_default().to_string_lossy();
    let [dpkg, xz, import] = children;
    let [unpacked, converted] = threads;
    let closed = |thread: &io::Result<()>| thread.as_ref().is_err_and(is_closed_pipe);
    let program = if !import.success() && (converted.is_ok() || closed(&converted)) {
        Some(("git fast-import", import))
    } else if !xz.success() && xz.code != PIPE_CLOSED && closed(&unpacked) {
        Some(("xz", xz))
    } else if !dpkg.success() && !closed(&unpacked) {
        Some(("dpkg-deb", dpkg))
    } else {
        None
    };
    if let Some((program, ended)) = program {
        let hint = if disk_full(&ended.tail) {
            MAKE_SPACE
        } else {
            "run it again: the package is downloaded anew"
        };
        let what = format!("{program} ended with {} while it imported {name}", ended.code);
        let fault = Fault::new(what).at(Stage::Source).details(ended.tail);
        return Err(Stop::Machine(fault.hint(hint)));
    }
    // The one that comes first in the row is the cause of the other.
    let errors = [unpacked, converted].into_iter().filter_map(Result::err);
    match errors.min_by_key(is_closed_pipe) {
        None => Ok(()),
        Some(error) if error.kind() == io::ErrorKind::NotFound => {
            let problem = Problem::new("--kernel", format!("{name} has {error}"));
            Err(Stop::usage(problem.hint("name a package like debian:linux-source-6.12")))
        }
        Some(error) => {
            let fault = Fault::new(format!("cannot import {name}: {error}")).at(Stage::Source);
            Err(Stop::Machine(fault))
        }
    }
}

fn is_closed_pipe(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

/// The command with its standard input or output taken from its descriptors
/// from 3 on: the keeper needs its own input for itself.
pub(super) fn through(cmd: &Cmd, redirections: &str) -> Cmd {
    cmd.clone().by(["sh", "-c", &format!("exec \"$0\" \"$@\" {redirections}")])
}

/// Finds the compressed source among the package's files and hands it on.
fn inner_archive(from: PipeReader, mut to: PipeWriter, log: &Log) -> io::Result<()> {
    let mut archive = Archive::new(BufReader::with_capacity(CHUNK, from));
    let mut found = false;
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path_bytes().into_owned();
        let name = path.rsplit(|&b| b == b'/').next().unwrap_or_default();
        if found || !(name.starts_with(b"linux-source-") && name.ends_with(b".tar.xz")) {
            continue;
        }
        found = true;
        let size = entry.size().max(1);
        let (mut done, mut told) = (0, 0);
        let mut chunk = vec![0; CHUNK];
        loop {
            let n = entry.read(&mut chunk)?;
            if n == 0 {
                break;
            }
            to.write_all(&chunk[..n])?;
            done += n as u64;
            let tenth = done * 10 / size;
            if tenth > told {
                told = tenth;
                log.progress(Stage::Source, format!("importing {}0 %", tenth));
            }
        }
    }
    drop(to);
    // What the writer of the stream still has to say must be taken from it.
    io::copy(&mut archive.into_inner(), &mut io::sink())?;
    if found {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::NotFound, "no linux-source-*.tar.xz in it"))
    }
}

/// Turns a tar stream into one for `git fast-import`: a commit of all files,
/// without the directory that they all lie in.
fn convert(from: impl Read, to: &mut impl Write) -> io::Result<()> {
    writeln!(to, "commit {IMPORTED}")?;
    writeln!(to, "committer hmm-harness <hmm-harness@localhost> 1593993600 +0000")?;
    writeln!(to, "data 9\nimported\n")?;
    let mut top: Option<Vec<u8>> = None;
    let mut archive = Archive::new(from);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            continue;
        }
        let name = entry.path_bytes().into_owned();
        let Some((first, path)) = inside(&name)? else { continue };
        if *top.get_or_insert_with(|| first.clone()) != first {
            return Err(other("its files do not lie in one directory"));
        }
        match kind {
            EntryType::Directory => {}
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let mode = if entry.header().mode()? & 0o100 == 0 { "100644" } else { "100755" };
                writeln!(to, "M {mode} inline {}", quoted(&path))?;
                let size = entry.size();
                writeln!(to, "data {size}")?;
                if io::copy(&mut entry, to)? != size {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                writeln!(to)?;
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default();
                writeln!(to, "M 120000 inline {}", quoted(&path))?;
                writeln!(to, "data {}", target.len())?;
                to.write_all(&target)?;
                writeln!(to)?;
            }
            EntryType::Link => {
                let target = entry.link_name_bytes().unwrap_or_default();
                let (_, target) = inside(&target)?.ok_or_else(|| other("a link to nothing"))?;
                writeln!(to, "C {} {}", quoted(&target), quoted(&path))?;
            }
            _ => {
                let name = String::from_utf8_lossy(&name).into_owned();
                return Err(other(&format!("{name} is neither a file nor a link")));
            }
        }
    }
    if top.is_none() {
        return Err(other("the archive in it is empty"));
    }
    writeln!(to, "\ndone")
}

/// Parts a name in the archive into its first component and the rest, `None`
/// if there is no rest.
fn inside(name: &[u8]) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
    let mut parts = name.split(|&b| b == b'/').filter(|part| !part.is_empty() && part != b".");
    let first = parts.next().unwrap_or_default().to_vec();
    let rest: Vec<&[u8]> = parts.collect();
    let strange = |part: &[u8]| part == b".." || part.eq_ignore_ascii_case(b".git");
    if name.starts_with(b"/") || strange(&first) || rest.iter().any(|part| strange(part)) {
        let name = String::from_utf8_lossy(name).into_owned();
        return Err(other(&format!("{name} does not belong into a kernel's source")));
    }
    Ok((!rest.is_empty()).then(|| (first, rest.join(&b'/'))))
}

/// A path as fast-import reads it. Bytes beyond ASCII stay what they are.
fn quoted(path: &[u8]) -> Quoted<'_> {
    Quoted(path)
}

struct Quoted<'a>(&'a [u8]);

impl std::fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("\"")?;
        for &byte in self.0 {
            match byte {
                b'"' | b'\\' => write!(f, "\\{}", byte as char)?,
                b' '..=b'~' => write!(f, "{}", byte as char)?,
                _ => write!(f, "\\{byte:03o}")?,
            }
        }
        f.write_str("\"")
    }
}

fn other(what: &str) -> io::Error {
    io::Error::other(what.to_owned())
}

/// Moves the packs of one repository into another, each index last: git looks
/// for those.
fn move_packs(from: &Git, to: &Git) -> Result<()> {
    let (from, to) = (from.objects().join("pack"), to.objects().join("pack"));
    fs::create_dir_all(&to)?;
    let mut names =
        fs::read_dir(&from)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
    names.sort_by_key(|name| name.to_string_lossy().ends_with(".idx"));
    for name in names {
        fs::rename(from.join(&name), to.join(&name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An archive with one entry of each kind that a kernel's has.
    fn archive(top: &str) -> Vec<u8> {
        let mut made = tar::Builder::new(Vec::new());
        let mut add = |kind: EntryType, mode: u32, name: &str, text: &[u8], link: Option<&str>| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(mode);
            header.set_size(text.len() as u64);
            match link {
                Some(link) => made.append_link(&mut header, name, link).expect("in memory"),
                None => made.append_data(&mut header, name, text).expect("in memory"),
            }
        };
        let at = |name: &str| format!("{top}/{name}");
        add(EntryType::Directory, 0o755, &at("mm"), b"", None);
        add(EntryType::Regular, 0o644, &at("mm/a.c"), b"int a;\n", None);
        add(EntryType::Regular, 0o755, &at("scripts/run"), b"#!/bin/sh", None);
        add(EntryType::Symlink, 0o777, &at("link"), b"", Some("mm/../mm/a.c"));
        add(EntryType::Link, 0o644, &at("hard"), b"", Some(&at("mm/a.c")));
        add(EntryType::Regular, 0o644, &at("odd \"n\\ame\n"), b"", None);
        add(EntryType::Regular, 0o644, &at(&"d/".repeat(100)).replace("d/d", "dir/d"), b"x", None);
        made.into_inner().expect("in memory")
    }

    fn converted(archive: &[u8]) -> io::Result<String> {
        let mut out = Vec::new();
        convert(archive, &mut out)?;
        Ok(String::from_utf8(out).expect("nothing else was put in"))
    }

    #[test]
    fn an_archive_becomes_a_commit() {
        let out = converted(&archive("linux")).expect("a good archive");
        for part in [
            "commit refs/heads/imported\n",
            "M 100644 inline \"mm/a.c\"\ndata 7\nint a;\n\n",
            "M 100755 inline \"scripts/run\"\ndata 9\n#!/bin/sh\n",
            "M 120000 inline \"link\"\ndata 12\nmm/../mm/a.c\n",
            "C \"mm/a.c\" \"hard\"\n",
            "M 100644 inline \"odd \\\"n\\\\ame\\012\"\ndata 0\n\n",
        ] {
            assert!(out.contains(part), "{part:?} is not in {out}");
        }
        assert!(out.lines().any(|l| l.len() > 200 && l.starts_with("M 100644 inline \"dir/d")));
        assert!(out.ends_with("\ndone\n"));
        assert!(!out.contains("linux/"));
    }

    #[test]
    fn an_archive_that_is_cut_short_is_no_commit() {
        let whole = archive("linux");
        for end in [600, 1600, 1030] {
            assert!(converted(&whole[..end]).is_err(), "cut at {end}");
        }
        assert!(converted(b"").is_err());
        assert!(converted(&[0xff; 2048]).is_err());
    }

    #[test]
    fn names_stay_inside() {
        for name in ["../x", "/x", "linux/../x", "linux/.git/config", "linux/a/.GIT/x"] {
            assert!(inside(name.as_bytes()).is_err(), "{name}");
        }
        let found = inside(b"./linux//a/b").expect("a good name").expect("a file");
        assert_eq!(found, (b"linux".to_vec(), b"a/b".to_vec()));
        assert_eq!(inside(b"linux/").expect("a good name"), None);
    }
}
