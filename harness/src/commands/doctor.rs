//! `doctor`: what this machine lacks.

use crate::cli::DoctorArgs;
use crate::context::Session;
use crate::machine;
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
    let line = |word: &str, what: &str, said: &str| format!("{word:<8} {what:<24} {said}\n");
    for Finding { what, purpose, state } in &findings {
        let (word, found) = match state {
            State::Good(found) => ("ok", found),
            State::Bad { why, .. } => ("MISSING", why),
        };
        text.push_str(&line(word, what, &format!("{purpose}: {found}")));
        if let State::Bad { mend, .. } = state {
            text.push_str(&line("", "", &format!("mend: {mend}")));
        }
    }
    if let Ok(qemu) = machine::qemu(ctx).await {
        text.push_str(&line("ok", &format!("QEMU {}", qemu.version), "the machine"));
        text.push_str(&match machine::kvm_fault(ctx, &qemu, true).await? {
            None => line("ok", "KVM", "hardware virtualisation: a guest runs"),
            Some(why) => line("slower", "KVM", &format!("guests are emulated, since {why}")),
        });
    }
    text.push_str(&match packages::GDB.found() {
        Some(path) => line("ok", "gdb", &format!("debugs a kernel: {}", path.display())),
        None => line("without", "gdb", "only `debug` needs it, and `debug --yes` installs it"),
    });
    print(&text)?;
    Ok(if healthy { 0 } else { FAULT })
}
