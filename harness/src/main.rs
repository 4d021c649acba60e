//! The program: reads the command line and hands it to the library.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;
use hmm_harness::cli::{Cli, Command};
use hmm_harness::commands::{
    self, baseline, bench, bisect, cache, check, compare, completions, debug, doctor, judge, list,
    report, run_kernel_tests, shell, show, torture,
};
use hmm_harness::keeper;
use hmm_harness::progress::{self, say};
use hmm_harness::stop::{self, Stop};
use hmm_harness::words::clean;

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    match words.as_slice() {
        [word, program, args @ ..] if word == keeper::WORD => return keeper::keep(program, args),
        [word, keeper, program, args @ ..] if word == keeper::CHILD_WORD => {
            return keeper::become_child(keeper, program, args);
        }
        _ => {}
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            // A closed pipe has nobody who could be told.
            let _ = error.print();
            return ExitCode::from(if asked { stop::AS_EXPECTED } else { stop::USAGE });
        }
    };
    // A panic is a bug of ours, and its exit code must not look like a verdict.
    let ran = std::panic::catch_unwind(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(anyhow::Error::from)?;
        let ran = runtime.block_on(run(cli));
        // Whoever still waits for a lock of the store would hold us up.
        runtime.shutdown_background();
        ran
    });
    progress::close(matches!(ran, Ok(Ok(_))));
    match ran {
        Ok(Ok(code)) => ExitCode::from(code),
        Ok(Err(stop)) => {
            say(clean(&stop.to_string()));
            ExitCode::from(stop.exit_code())
        }
        Err(_) => ExitCode::from(stop::FAULT),
    }
}

async fn run(cli: Cli) -> Result<u8, Stop> {
    let ended = command(cli).await;
    // Whoever has interrupted us does not want to wait for it, and a command that
    // makes no sense has done nothing.
    if !matches!(
        ended,
        Ok(stop::INTERRUPTED | stop::USAGE) | Err(Stop::Interrupted | Stop::Usage { .. })
    ) {
        commands::tidy().await;
    }
    ended
}

async fn command(cli: Cli) -> Result<u8, Stop> {
    match cli.command {
        Command::RunKernelTests(args) => run_kernel_tests::run(&commands::session()?, &args).await,
        Command::Bisect(args) => bisect::run(&commands::session()?, &args).await,
        Command::Shell(args) => shell::run(&args).await,
        Command::List(args) => list::run(&args),
        Command::Judge(args) => judge::run(&args),
        Command::Show(args) => show::run(&commands::session()?, &args).await,
        Command::Report(args) => report::run(&args),
        Command::Doctor(args) => doctor::run(&commands::session()?, &args).await,
        Command::Bench(args) => bench::run(&commands::session()?, &args).await,
        Command::Cache(args) => cache::run(&args).await,
        Command::Compare(args) => compare::run(&args),
        Command::Baseline(args) => baseline::run(&args),
        Command::Debug(args) => debug::run(&commands::session()?, &args).await,
        Command::Check(args) => check::run(&commands::session()?, &args).await,
        Command::Torture(args) => torture::run(&commands::session()?, &args).await,
        Command::Completions(args) => completions::run(&args),
    }
}
