//! `cache`: what the store holds, and less of it.

use std::time::SystemTime;

use bytesize::ByteSize;

use crate::cache::{self, Entry};
use crate::cli::{CacheArgs, CacheCommand, PruneArgs};
use crate::interrupt::Interrupt;
use crate::progress::print;
use crate::stop::{AS_EXPECTED, FAULT, Fault, Stop};
use crate::store::Store;
use crate::words::clean;

/// Runs the command.
///
/// # Errors
/// When the store cannot be read or written, or somebody else uses what is to be
/// removed.
pub async fn run(args: &CacheArgs) -> Result<u8, Stop> {
    let store = Store::of_user()?;
    match &args.command {
        CacheCommand::List => list(&store),
        CacheCommand::Prune(args) => prune(&store, args),
        CacheCommand::Verify => verify(&store).await,
    }
}

fn list(store: &Store) -> Result<u8, Stop> {
    let bound = cache::bound()?;
    let entries = cache::entries(store)?;
    let mut text = entries.iter().map(line).collect::<String>();
    let total = ByteSize(entries.iter().map(|entry| entry.size.0).sum());
    text.push_str(&format!(
        "{total} of at most {bound} in {}; what was not used for the longest goes first\n",
        store.path("").display()
    ));
    print(&text)?;
    Ok(AS_EXPECTED)
}

fn line(entry: &Entry) -> String {
    let Entry { kind, name, size, used, .. } = entry;
    format!("{}  {:>10}  {kind:<8} {}\n", minutes(*used), size.to_string(), clean(name))
}

/// A moment as people write it, in UTC.
fn minutes(at: SystemTime) -> String {
    humantime::format_rfc3339_seconds(at).to_string()[..16].replace('T', " ")
}

fn prune(store: &Store, args: &PruneArgs) -> Result<u8, Stop> {
    let bound = match args.to {
        Some(bound) => bound,
        None => cache::bound()?,
    };
    let Some(removed) = cache::prune(store, bound)? else {
        let fault = Fault::new("another command uses the store; nothing was removed");
        return Err(Stop::Machine(fault.hint("try again when it has ended")));
    };
    print(&format!("{}, {} are left\n", removed.told(), removed.left))?;
    Ok(AS_EXPECTED)
}

async fn verify(store: &Store) -> Result<u8, Stop> {
    let _shared = store.share(|| ())?;
    let faults = cache::faults(store, &Interrupt::listen()?).await?;
    if faults.is_empty() {
        print("every kernel, every saved guest and every object is what was written\n")?;
        return Ok(AS_EXPECTED);
    }
    let mut text: String = faults.iter().map(|fault| clean(fault) + "\n").collect();
    let objects = format!("{}:", store.path("trees.git").display());
    text.push_str("kernels and guests are made again when they are needed\n");
    if faults.iter().any(|fault| fault.starts_with(&objects)) {
        text.push_str("objects are not: `hmm-harness cache prune --to 0` removes all\n");
    }
    print(&text)?;
    Ok(FAULT)
}
