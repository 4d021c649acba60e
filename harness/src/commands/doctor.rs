//! `doctor`: what this machine lacks.

use crate::cli::DoctorArgs;
use crate::context::Session;
use crate::machine::{self, Accel};
use crate::packages::{self, Finding, State};
use crate::progress::print;
use crate::stop::{FAULT, Stop};

/// Runs the command.
///
/// # Errors
/// When packages cannot be installed, or the user stops us.
pub async fn run(session: &Session, args: &DoctorArgs) -> Result<u8, Stop> {
    let ctx = &session.context()?;
    let missing = packages::missing();
    if args.yes && !missing.is_empty() {
        packages::install(ctx, true, &missing).await?;
    }
    let findings = packages::survey(&ctx.store);
    let healthy = findings.iter().all(Finding::is_good);
    let mut text = String::new();
    for Finding { what, purpose, state } in &findings {
        let (word, found) = match state {
            State::Good(found) => ("ok", found),
            State::Slower(found) => ("slower", found),
            State::Bad { why, .. } => ("MISSING", why),
        };
        text.push_str(&format!("{word:<8} {what:<24} {purpose}: {found}\n"));
        if let State::Bad { mend, .. } = state {
            text.push_str(&format!("{:<8} {:<24} mend: {mend}\n", "", ""));
        }
    }
    if let Ok(qemu) = machine::qemu(ctx).await {
        let accelerator = machine::accelerator(ctx, &qemu, Accel::Auto).await?;
        text.push_str(&format!(
            "{:<8} {:<24} guests run on {}\n",
            "ok",
            format!("QEMU {}", qemu.version),
            accelerator.as_str()
        ));
    }
    print(&text);
    Ok(if healthy { 0 } else { FAULT })
}
