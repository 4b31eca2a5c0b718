//! `watershed demo`: real applications' telemetry through the default topology, and nothing of it lost.

use crate::harness::beside_others;
use crate::harness::process::{Finished, finish};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost() {
    let _turn = beside_others().await;
    let Finished { code, stdout, stderr } = finish(&["demo", "--quick", "--stories", "20"]).await;
    assert_eq!(code, Some(0), "{stdout}\n{stderr}");
    for signal in ["spans", "data points", "log records"] {
        let row = stdout.lines().find(|line| line.starts_with(signal));
        let row = row.unwrap_or_else(|| panic!("nothing about {signal}:\n{stdout}"));
        let numbers: Vec<i64> = row.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [sent, arrived, lost, bytes] = numbers[..] else { panic!("{row}") };
        assert!(sent > 0 && bytes > 0, "{row}");
        assert_eq!((arrived, lost), (sent, 0), "{row}");
    }
    assert!(stdout.contains("nothing lost"), "{stdout}");
}
