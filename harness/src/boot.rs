//! The machine recipe: everything about a VM but its start. From it the run
//! starts as many equal VMs as it needs.

use std::path::PathBuf;

use hmm_protocol::wire::{Abi, Attach, Mount, Prepare, SHELL_ERRORS_PORT, SHELL_PORT};

use crate::build::Kernel;
use crate::flow::Stage;
use crate::image::{Export, Image};
use crate::layout::Known;
use crate::machine::{Accelerator, Qemu};
use crate::plan::Switch;
use crate::proc::{Cmd, quote};
use crate::results::MachineInfo;
use crate::stop::{Fault, Stop};
use crate::store::digest;
use crate::trace;

/// Virtual processors: races want two, and more than the host has brings
/// false alarms of the guest's watchdogs.
const CPUS: u32 = 2;

/// Memory, in MiB. The coherent window lies below its end.
const MEMORY_MIB: u32 = 2048;

/// Where the driver's two device-coherent ranges lie: each is one chunk of 256
/// MiB (`DEVMEM_CHUNK_SIZE` in lib/test_hmm.c), cut out of RAM by `memmap=`.
/// Nothing in the kernel checks that RAM is behind these addresses, so
/// [`coherent_window_fits`] does.
const COHERENT_BASE: u64 = 0x5000_0000;
const COHERENT_CHUNK: u64 = 256 << 20;

/// The name of the agent's port, which the agent looks for.
const AGENT_PORT: &str = "hmm.agent";

/// The name of the port on which traces leave, likewise.
const TRACE_PORT: &str = "hmm.trace";

/// Where a person's command is at home.
pub const SHELL_HOME: &str = "/root";

/// How a VM is connected to whoever started it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wiring {
    /// The console is a pipe inherited as descriptor 3; agent, monitor and trace
    /// are sockets, 4, 5 and 6; so are the ports of a command, if it has any, 7 and
    /// 8.
    Harness,
    /// The console on standard input and output, nobody at the agent's port.
    Person,
}

/// All that is needed to start a VM.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// Which QEMU.
    pub qemu: Qemu,
    /// How it runs the guest.
    pub accelerator: Accelerator,
    /// The kernel image.
    vmlinux: PathBuf,
    /// Which kernel that is, by what it was made of.
    kernel_key: String,
    /// The initramfs.
    initrd: PathBuf,
    /// Which initramfs that is, by its content.
    initrd_key: String,
    /// Directories of the host.
    exports: Vec<Export>,
    /// The agent's first orders, which need nothing of the host.
    pub prepare: Prepare,
    /// Its orders for what comes from the host.
    pub attach: Attach,
    /// The driver's numbers, for the tests.
    pub abi: Abi,
    /// Whether it runs a person's command, and no tests.
    shell: bool,
    /// For the results.
    pub info: MachineInfo,
}

/// Works out the recipe. Starts nothing.
///
/// # Errors
/// [`Stop::Machine`] when the numbers above contradict each other, and
/// [`Stop::Kernel`] when traces are demanded and the kernel's notifier is not
/// understood.
pub fn recipe(
    kernel: &Kernel,
    image: Image,
    qemu: Qemu,
    accelerator: Accelerator,
    trace: Option<Switch>,
) -> Result<Recipe, Stop> {
    if !coherent_window_fits(MEMORY_MIB) {
        return Err(anyhow::anyhow!(
            "{MEMORY_MIB} MiB of memory do not reach behind the coherent window"
        )
        .into());
    }
    let layout = match (&kernel.layout, trace) {
        (_, Some(Switch::Off)) => None,
        (Known::Is(layout), _) => Some(layout.clone()),
        (Known::Not(why), Some(Switch::On)) => return Err(cannot_trace(why)),
        (Known::Not(_), None) => None,
    };
    let mut prepare = image.prepare;
    prepare.trace = layout.as_ref().map(trace::setup);
    let info = MachineInfo {
        accelerator: accelerator.as_str().into(),
        qemu_version: qemu.version.clone(),
        cpus: CPUS,
        memory_mib: MEMORY_MIB,
        rootfs: image.rootfs.as_str().into(),
        restored: false,
        settings: std::collections::BTreeMap::new(),
    };
    Ok(Recipe {
        qemu,
        accelerator,
        vmlinux: kernel.vmlinux(),
        kernel_key: kernel.key(),
        initrd: image.initrd,
        initrd_key: image.initrd_key,
        exports: image.exports,
        prepare,
        attach: image.attach,
        abi: kernel.abi.clone(),
        shell: false,
        info,
    })
}

/// What `--trace on` makes of a kernel that cannot trace.
pub fn cannot_trace(why: &str) -> Stop {
    let fault = Fault::new(format!("--trace on, and nothing can be traced: {why}"));
    Stop::Kernel(fault.at(Stage::Boot).hint("without --trace it is judged by what remains"))
}

impl Recipe {
    /// The same machine for a person's command: it has ports for its bytes, and a
    /// home that can be written.
    #[must_use]
    pub fn for_shell(mut self) -> Recipe {
        self.shell = true;
        self.prepare.mounts.push(Mount {
            at: SHELL_HOME.into(),
            kind: "tmpfs".into(),
            options: "mode=700".into(),
            ..Mount::default()
        });
        self
    }

    /// Whether it is one for a person's command.
    pub fn is_for_shell(&self) -> bool {
        self.shell
    }

    /// The command that starts a VM for the harness: descriptor 3 is the pipe of
    /// the console, 4, 5 and 6 are the sockets of agent, monitor and trace, 7 and 8
    /// those of a person's command, if it is for one. A `restored` one takes over
    /// the state that it reads from the next descriptor, and does not boot.
    pub fn command(&self, restored: bool) -> Cmd {
        let command = Cmd::new(&self.qemu.path).args(self.arguments(Wiring::Harness));
        let state = if self.shell { "fd:9" } else { "fd:7" };
        if restored { command.args(["-incoming", state]) } else { command }
    }

    /// The name of all that the state of a prepared guest depends on: two
    /// recipes with the same key may restore each other's guests. Paths of the
    /// host are no part of it, since what lies there is attached afterwards.
    pub fn snapshot_key(&self) -> String {
        let nowhere = Recipe {
            vmlinux: PathBuf::new(),
            initrd: PathBuf::new(),
            exports: self
                .exports
                .iter()
                .map(|export| Export { path: PathBuf::new(), tag: export.tag.clone() })
                .collect(),
            ..self.clone()
        };
        let machine = nowhere.arguments(Wiring::Harness).join("\n");
        let prepare = serde_json::to_string(&self.prepare).expect("plain data");
        let Qemu { build, host, .. } = &self.qemu;
        let parts = [&self.kernel_key, &self.initrd_key, &machine, &prepare, build, host];
        digest(parts.map(|part| part.as_bytes()))
    }

    /// The same machine for a person: `qemu.cmd`.
    pub fn pasteable(&self) -> String {
        let mut text = format!("{} \\\n", quote(&self.qemu.path.to_string_lossy()));
        let arguments = self.arguments(Wiring::Person);
        let mut words = arguments.iter().peekable();
        while let Some(word) = words.next() {
            text.push_str("  ");
            text.push_str(&quote(word));
            if let Some(value) = words.next_if(|next| !next.starts_with('-')) {
                text.push(' ');
                text.push_str(&quote(value));
            }
            text.push_str(if words.peek().is_some() { " \\\n" } else { "\n" });
        }
        text
    }

    fn arguments(&self, wiring: Wiring) -> Vec<String> {
        let mut args: Vec<String> = Vec::new();
        let mut add = |words: &[&str]| args.extend(words.iter().map(|w| (*w).to_owned()));

        // A plain q35 and nothing that was not asked for.
        add(&["-machine", "q35", "-nodefaults", "-no-user-config", "-display", "none"]);
        add(&["-accel", self.accelerator.argument()]);
        // Without five-level paging: the driver's device memory lies below the
        // end of physical addresses, which la57 moves.
        add(&["-cpu", self.accelerator.cpu()]);
        add(&["-smp", &CPUS.to_string(), "-m", &MEMORY_MIB.to_string()]);
        // A guest that resets is gone, not back at its beginning; one that
        // panics says so to the monitor too.
        add(&["-no-reboot", "-device", "pvpanic-pci"]);
        add(&[
            "-sandbox",
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        ]);
        add(&["-append", &kernel_command_line(self.accelerator)]);
        add(&["-kernel", &self.vmlinux.to_string_lossy()]);
        add(&["-initrd", &self.initrd.to_string_lossy()]);
        match wiring {
            Wiring::Harness => {
                // A pipe and no socket: what QEMU writes byte by byte fills a
                // socket's buffer after a few hundred of them, and the serial
                // port then drops what follows.
                add(&["-chardev", "file,id=console,path=/proc/self/fd/3"]);
                add(&["-serial", "chardev:console"]);
                add(&["-chardev", "socket,id=agent,fd=4"]);
                add(&[
                    "-chardev",
                    "socket,id=monitor,fd=5",
                    "-mon",
                    "chardev=monitor,mode=control",
                ]);
                add(&["-chardev", "socket,id=trace,fd=6"]);
                if self.shell {
                    add(&["-chardev", "socket,id=shell,fd=7"]);
                    add(&["-chardev", "socket,id=shell-errors,fd=8"]);
                }
            }
            Wiring::Person => {
                add(&["-serial", "mon:stdio", "-chardev", "null,id=agent"]);
                add(&["-chardev", "null,id=trace"]);
            }
        }
        add(&["-device", "virtio-serial-pci"]);
        add(&["-device", &format!("virtserialport,chardev=agent,name={AGENT_PORT}")]);
        add(&["-device", &format!("virtserialport,chardev=trace,name={TRACE_PORT}")]);
        if self.shell && wiring == Wiring::Harness {
            for (id, name) in [("shell", SHELL_PORT), ("shell-errors", SHELL_ERRORS_PORT)] {
                add(&["-device", &format!("virtserialport,chardev={id},name={name}")]);
            }
        }
        for (n, export) in self.exports.iter().enumerate() {
            // QEMU's option syntax doubles a comma that belongs to a value.
            let path = export.path.to_string_lossy().replace(',', ",,");
            add(&[
                "-fsdev",
                &format!(
                    "local,id=fs{n},path={path},security_model=none,readonly=on,multidevs=remap"
                ),
            ]);
            add(&["-device", &format!("virtio-9p-pci,fsdev=fs{n},mount_tag={}", export.tag)]);
        }
        args
    }
}

/// The kernel's parameters.
fn kernel_command_line(accelerator: Accelerator) -> String {
    let first = COHERENT_BASE;
    let second = COHERENT_BASE + COHERENT_CHUNK;
    let window = 2 * (COHERENT_CHUNK >> 20);
    [
        // Everything on the serial line, at once, from whomever.
        "console=ttyS0 ignore_loglevel printk.devkmsg=on".to_owned(),
        // A panic resets the guest, which ends it.
        "panic=-1".to_owned(),
        // The same addresses in every start of the same kernel.
        "nokaslr no5lvl".to_owned(),
        "random.trust_cpu=on".to_owned(),
        // What a kernel measures at its start against a clock that goes on while
        // the host is busy with something else comes out wrong now and then: that
        // the clocks of two processors differ, that the timer's interrupt does
        // not arrive, that a loop takes longer than it does. Delays are then never
        // too short on a processor of up to 4 GHz.
        "no_timer_check lpj=16000000".to_owned(),
        match accelerator {
            Accelerator::Kvm => "tsc=reliable",
            // The rate of the emulated counter would be measured too, and a guest
            // that takes 2.6 GHz for 200 MHz sees every test run into its deadline.
            // The HPET's rate is told by itself.
            Accelerator::Tcg => "notsc",
        }
        .to_owned(),
        format!("memmap={window}M${first:#x}"),
        format!("test_hmm.spm_addr_dev0={first:#x} test_hmm.spm_addr_dev1={second:#x}"),
    ]
    .join(" ")
}

/// Whether RAM lies behind the whole coherent window, with room above it for
/// the initramfs, which QEMU puts at the end of low memory.
fn coherent_window_fits(memory_mib: u32) -> bool {
    let end = COHERENT_BASE + 2 * COHERENT_CHUNK;
    u64::from(memory_mib) << 20 >= end + (64 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Recipe {
        let qemu = Qemu {
            path: "qemu".into(),
            version: "8.2".into(),
            build: "8.2 (Debian)".into(),
            host: "a processor".into(),
        };
        Recipe {
            qemu,
            accelerator: Accelerator::Tcg,
            vmlinux: "/store/kernels/1/vmlinux".into(),
            kernel_key: "kernel".into(),
            initrd: "/store/images/1/initramfs.cpio".into(),
            initrd_key: "initrd".into(),
            exports: vec![Export { tag: "tests".into(), path: "/store/images/1/payload".into() }],
            prepare: Prepare::default(),
            attach: Attach::default(),
            abi: Abi::default(),
            shell: false,
            info: MachineInfo::default(),
        }
    }

    #[test]
    fn a_saved_guest_is_known_by_all_that_its_state_depends_on() {
        type Change = (&'static str, fn(&mut Recipe));
        let other: [Change; 9] = [
            ("kernel", |r| r.kernel_key = "other".into()),
            ("initramfs", |r| r.initrd_key = "other".into()),
            ("QEMU", |r| r.qemu.build = "8.2 (own)".into()),
            ("host", |r| r.qemu.host = "another processor".into()),
            ("accelerator and CPU model", |r| r.accelerator = Accelerator::Kvm),
            ("devices", |r| r.exports.clear()),
            ("a person's command", |r| *r = r.clone().for_shell()),
            ("a device's name", |r| r.exports[0].tag = "other".into()),
            ("what the guest was told", |r| {
                r.prepare.links.push(("/bin".into(), "usr/bin".into()))
            }),
        ];
        for (what, change) in other {
            let mut recipe = example();
            change(&mut recipe);
            assert_ne!(recipe.snapshot_key(), example().snapshot_key(), "{what}");
        }
        // What is not in the state, or looked up again after the restore.
        let same: [Change; 5] = [
            ("where the kernel lies", |r| r.vmlinux = "/elsewhere/vmlinux".into()),
            ("where the initramfs lies", |r| r.initrd = "/elsewhere/initramfs.cpio".into()),
            ("where the host's files lie", |r| r.exports[0].path = "/elsewhere/payload".into()),
            ("what is attached", |r| r.attach.tests = "other".into()),
            ("the driver's numbers", |r| r.abi.cmd_size = 1),
        ];
        for (what, change) in same {
            let mut recipe = example();
            change(&mut recipe);
            assert_eq!(recipe.snapshot_key(), example().snapshot_key(), "{what}");
        }
    }

    #[test]
    fn the_coherent_window_must_have_ram_behind_it() {
        assert!(coherent_window_fits(MEMORY_MIB));
        assert!(!coherent_window_fits(1024));
        assert!(!coherent_window_fits(1792));
    }

    #[test]
    fn the_window_is_what_the_driver_is_told() {
        let line = kernel_command_line(Accelerator::Tcg);
        assert!(line.contains("memmap=512M$0x50000000"));
        assert!(line.contains("test_hmm.spm_addr_dev0=0x50000000"));
        assert!(line.contains("test_hmm.spm_addr_dev1=0x60000000"));
    }
}
