//! What goes wrong, on purpose and by a seed: the short forms of `cargo chaos` (docs/reliability.md).

use watershed_chaos::{Custody, Format, Program, Row, Run, find, play};

use crate::harness::{alone, beside_others};

/// No test by itself: the program with a stage that panics, as [`Program::panicking`] starts it.
#[test]
fn panicking_program() {
    if let Some(code) = play() {
        std::process::exit(code.into());
    }
}

fn seed() -> u64 {
    let seed = std::env::var("WATERSHED_CHAOS_SEED").ok().and_then(|seed| seed.parse().ok());
    seed.unwrap_or_else(|| std::process::id().into())
}

/// Runs a scenario in its short form under each of these custodies.
async fn holds(name: &str, custodies: &[Custody]) -> Vec<Row> {
    let scenario = find(name).unwrap();
    let mut rows = Vec::new();
    for custody in custodies {
        let run = Run {
            program: Program::new(env!("CARGO_BIN_EXE_watershed")).unwrap(),
            panicking: Some(
                Program::panicking(&["chaos::panicking_program", "--exact", "--nocapture"]).unwrap(),
            ),
            custody: *custody,
            seed: seed(),
            pace: scenario.short,
        };
        let row = scenario.run(&run).await.unwrap_or_else(|error| panic!("{error:#}"));
        row.print(Format::Text).unwrap();
        assert!(row.holds(), "{row}\n{}", row.faults.join("\n"));
        rows.push(row);
    }
    rows
}

/// As [`holds`], and none of it is left out.
async fn all_hold(name: &str, custodies: &[Custody]) {
    for row in holds(name, custodies).await {
        assert_eq!(row.skipped, None, "{row}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_nine_loses_nothing_that_was_acknowledged() {
    let _turn = beside_others().await;
    all_hold("kill", &[Custody::Journal, Custody::Queues, Custody::Delivered]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_stands_still_loses_nothing() {
    let _turn = beside_others().await;
    all_hold("stop", &[Custody::Journal]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_that_lies_is_told_everything() {
    let _turn = beside_others().await;
    all_hold("lies", &[Custody::Journal, Custody::Delivered]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stage_that_panics_loses_nothing() {
    let _turn = beside_others().await;
    all_hold("panics", &[Custody::Journal, Custody::Delivered]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sampler_that_is_killed_decides_as_before() {
    let _machine = alone().await;
    all_hold("tail_sampling", &[Custody::Journal]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_outlived_across_restarts() {
    let _turn = beside_others().await;
    all_hold("outage", &[Custody::Journal, Custody::Queues]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_without_a_destination_ends_in_time_and_keeps_everything() {
    let _turn = beside_others().await;
    all_hold("shutdown", &[Custody::Queues]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_for_a_while_only() {
    let _turn = beside_others().await;
    // A small disk takes a namespace for mounts, which not every machine gives.
    holds("disk_full", &[Custody::Journal]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_reported_and_the_rest_delivered() {
    let _turn = beside_others().await;
    all_hold("damage", &[Custody::Journal]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthy_branch_does_not_notice_the_others() {
    let _machine = alone().await;
    all_hold("branches", &[Custody::Accepted, Custody::Queues, Custody::Journal]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_that_are_killed_in_turn_lose_nothing_and_traces_stay_whole() {
    let _machine = alone().await;
    all_hold("gateways", &[Custody::Journal, Custody::Accepted]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_update_of_gateways_is_noticed_by_nobody() {
    let _machine = alone().await;
    all_hold("rolling", &[Custody::Journal]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_gateways_become_ten_and_three_again() {
    let _machine = alone().await;
    all_hold("scale", &[Custody::Journal]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_gateways_keep_the_traces_that_one_keeps() {
    let _machine = alone().await;
    all_hold("sampling", &[Custody::Journal]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_without_gateways_take_what_comes_and_get_rid_of_it() {
    let _machine = alone().await;
    // Machines of their own take root, which not everybody is.
    holds("partition", &[Custody::Journal]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_at_once_loses_nothing() {
    let _machine = alone().await;
    all_hold("soak", &[Custody::Journal]).await;
}
