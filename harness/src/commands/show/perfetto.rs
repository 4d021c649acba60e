//! The traces of a run in a file for <https://ui.perfetto.dev>.

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::trace::{Perfetto, Times, rows};
use crate::{collect, rundir};

/// Writes the traces of these tests, as far as there are any, to `path`: each
/// turn where it lay in the run. Returns how many there are.
///
/// # Errors
/// When a trace cannot be read, or the file cannot be written.
pub fn write(dir: &Path, tests: &[&str], path: &Path) -> Result<usize> {
    let turns = collect::turns(dir)?;
    let cannot = || format!("cannot write {}", path.display());
    let file = File::create(path).with_context(cannot)?;
    let mut perfetto =
        Perfetto::new(BufWriter::with_capacity(64 << 10, file)).with_context(cannot)?;
    let mut written = 0;
    for id in tests {
        let first = (String::from(*id), 0);
        for ((_, turn), ms) in turns.range(first..).take_while(|((of, _), _)| of == id) {
            let trace = dir.join(rundir::rows_of(id, *turn));
            if !trace.is_file() {
                continue;
            }
            let open = || {
                let file = File::open(&trace).with_context(|| trace.display().to_string())?;
                anyhow::Ok(rows(BufReader::with_capacity(64 << 10, file)))
            };
            let mut times = Times::default();
            for row in open()? {
                times.push(&row.with_context(|| trace.display().to_string())?);
            }
            let name = if *turn == 0 { (*id).to_owned() } else { format!("{id}@{turn}") };
            perfetto
                .test(&name, ms.saturating_mul(1_000_000), &times, open()?)
                .with_context(|| format!("{} to {}", trace.display(), path.display()))?;
            written += 1;
        }
    }
    perfetto.finish().with_context(cannot)?;
    Ok(written)
}
