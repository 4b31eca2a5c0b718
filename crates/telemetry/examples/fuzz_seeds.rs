//! Writes a corpus for the fuzz target `validate`, the requests of the property tests, into a directory.

#![allow(clippy::expect_used)]

#[path = "../tests/suite/generate.rs"]
#[allow(dead_code)]
mod generate;
#[path = "../tests/suite/oracle.rs"]
#[allow(dead_code)]
mod oracle;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use watershed_telemetry::Signal;

fn main() -> std::io::Result<()> {
    let directory = std::path::PathBuf::from(std::env::args().nth(1).expect("usage: fuzz_seeds DIRECTORY"));
    std::fs::create_dir_all(&directory)?;
    let mut runner = TestRunner::deterministic();
    for index in 0..200u8 {
        let request = generate::request().new_tree(&mut runner).expect("a request").current();
        let signal =
            Signal::ALL.iter().position(|signal| *signal == request.signal()).unwrap_or_default() as u8;
        let mut seed = vec![signal + 3 * (index % 80)];
        seed.extend(request.encode());
        std::fs::write(directory.join(format!("seed-{index:03}")), seed)?;
    }
    Ok(())
}
