//! The repository's own profiles and fragments are what they say they are.

use std::fs;
use std::path::Path;

use hmm_harness::config::{Fragments, Profile, Value};
use hmm_harness::stop::Stop;

/// The files of the repository, as the build script embeds them.
fn fragments() -> Fragments {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernel-configs");
    let mut files = Fragments::default();
    for folder in ["", "profiles/"] {
        for entry in fs::read_dir(root.join(folder)).expect("the folder is there") {
            let entry = entry.expect("the folder can be read");
            if let Ok(text) = fs::read_to_string(entry.path()) {
                files.insert(format!("{folder}{}", entry.file_name().to_string_lossy()), text);
            }
        }
    }
    files
}

#[test]
fn every_profile_loads() {
    let files = fragments();
    assert!(files.profiles().contains(&"default"));
    for name in files.profiles() {
        let profile = Profile::load(&files, name).unwrap_or_else(|stop| panic!("{stop}"));
        assert!(!profile.description.is_empty() && !profile.requests.is_empty());
    }
}

#[test]
fn the_default_profile_has_the_driver_and_the_entry() {
    let profile = Profile::load(&fragments(), "default").expect("good");
    let requests = profile.requests_of((6, 12, 0));
    let value =
        |symbol: &str| requests.iter().find(|r| r.symbol == symbol).map(|request| &request.value);
    for symbol in ["TEST_HMM", "DEVICE_PRIVATE", "PVH", "KPROBE_EVENTS", "VIRTIO_CONSOLE"] {
        assert_eq!(value(symbol), Some(&Value::Yes), "{symbol}");
    }
    assert_eq!(value("MODULES"), None, "KPROBES needs no modules since 6.10");
    let before: Vec<_> = profile.requests_of((5, 8, 0));
    assert!(before.iter().any(|r| r.symbol == "MODULES" && r.value == Value::Yes));
    assert_eq!(value("INET"), None, "9p needs no INET since 6.4");
    assert!(profile.requests_of((6, 1, 0)).iter().any(|r| r.symbol == "INET"));
}

#[test]
fn a_line_that_is_no_request_is_a_usage_error_with_its_place() {
    let mut files = fragments();
    let text = format!("{}\nCONFIG_TEST_HMM=perhaps\n", files.get("hmm.config").expect("there"));
    let line = text.lines().count();
    files.insert("hmm.config", text);
    let stop = Profile::load(&files, "default").expect_err("`perhaps` is no value");
    assert_eq!(stop.exit_code(), 128);
    let Stop::Usage { problems } = stop else { panic!("a usage error") };
    assert_eq!(problems[0].at, format!("kernel-configs/hmm.config:{line}:17"));
}
