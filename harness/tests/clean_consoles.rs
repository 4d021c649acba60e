//! What kernels say that nothing is wrong with: the consoles of runs that
//! passed, one for each line of kernels, in which nothing is a complaint.

use std::fs;
use std::path::{Path, PathBuf};

use hmm_harness::console::{Finding, Scanner, What};

/// The kernels that a console was kept of.
const KERNELS: [&str; 4] = ["5.10", "6.1", "6.12", "7.2"];

fn path(kernel: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/consoles/clean/{kernel}.log"))
}

fn console(kernel: &str) -> Vec<u8> {
    let path = path(kernel);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn scan(console: &[u8]) -> Vec<Finding> {
    let mut scanner = Scanner::default();
    let mut found = scanner.push(console);
    found.extend(scanner.finish());
    found
}

#[test]
fn a_clean_kernel_is_not_complained_of() {
    for kernel in KERNELS {
        let complaints: Vec<String> = scan(&console(kernel))
            .into_iter()
            .filter_map(|found| match found.what {
                What::Complaint { signature, title } => {
                    Some(format!("line {}: {}: {title}", found.line, signature.id))
                }
                What::Begin(_) | What::End(_) | What::Report(_) => None,
            })
            .collect();
        assert_eq!(complaints, [] as [String; 0], "{}", path(kernel).display());
    }
}

#[test]
fn the_consoles_are_those_of_whole_runs() {
    for kernel in KERNELS {
        let console = console(kernel);
        let text = String::from_utf8_lossy(&console);
        let first = text.lines().next().unwrap_or_default();
        assert!(first.contains(&format!("Linux version {kernel}.")), "{kernel}: {first}");
        assert!(text.contains("reboot: Power down"), "{kernel} was not seen to the end");

        let (mut begun, mut ended) = (Vec::new(), Vec::new());
        for found in scan(&console) {
            match found.what {
                What::Begin(id) => begun.push(id),
                What::End(id) => ended.push(id),
                What::Complaint { .. } | What::Report(_) => {}
            }
        }
        assert!(!begun.is_empty(), "{kernel} ran no test");
        assert_eq!(begun, ended, "{kernel}");
    }
}
