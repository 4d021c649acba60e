//! What is read of an image, on a real one: this test's own program.

use std::fs;

use hmm_harness::build::{loaded, symbol};

#[test]
fn a_program_of_the_linker_is_read() {
    let image = fs::read("/proc/self/exe").expect("this program exists");
    let found = loaded(&image).expect("it is a 64-bit ELF");
    assert!(!found.pvh, "it is no kernel");
    assert_eq!(loaded(&image).expect("still").sha256, found.sha256);
    let main = symbol(&image, "main").expect("it has an entry that is called main");
    assert!(main.address > 0);
    assert_eq!(symbol(&image, "no_such_symbol_in_here"), None);
}
