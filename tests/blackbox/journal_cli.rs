//! `watershed journal` and `watershed deadletter`, on what the engine has written and on what was damaged since.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use watershed_durable::Envelope;
use watershed_journal::{Journal, Options, OsFiles, Record};
use watershed_testkit::grpc::{Code, Signal};
use watershed_testkit::requests::TraceTemplate;
use watershed_testkit::web::{WebClient, path};
use watershed_testkit::{Answer, Arrival, LoadReport, Loader, Sink, reserve, verdict, wait_until};

use crate::harness::process::{Finished, Program, finish};
use crate::harness::{PATIENCE, beside_others};

/// A journal at the head of a pipeline to an exporter for each of these destinations.
fn journaled(listen: SocketAddr, directory: &Path, destinations: &[(&str, SocketAddr)]) -> String {
    let exporters = destinations.iter().map(|(name, at)| {
        format!(
            "[exporters.\"otlp/{name}\"]\nendpoint = \"http://{at}\"\n\
             retry_on_failure = {{ initial_interval = \"20ms\", max_interval = \"100ms\" }}\n"
        )
    });
    let names: Vec<String> = destinations.iter().map(|(name, _)| format!("otlp/{name}")).collect();
    format!(
        "[service]\nshutdown_timeout = \"1s\"\n[receivers.otlp.protocols.grpc]\nendpoint = \"{listen}\"\n\
         [processors.journal]\ndirectory = {directory:?}\n{}\
         [pipelines.traces]\nreceivers = [\"otlp\"]\nprocessors = [\"journal\"]\nexporters = {names:?}\n",
        exporters.collect::<String>()
    )
}

/// Sends ten spans in each of so many requests, all of which are acknowledged.
async fn load(listen: SocketAddr, requests: u64) -> LoadReport {
    let load = Loader::new(listen).spans_per_request(10).closed(2, 4).requests(requests).run().await;
    assert_eq!(load.acknowledged.len(), 10 * requests, "{load}");
    load
}

/// Ends a program and waits for it.
async fn stop(mut program: Program) {
    program.signal("TERM");
    assert!(program.exit().await.is_some(), "{}", program.stderr());
}

/// Runs the program on `directory`.
async fn on(directory: &Path, before: &[&str], after: &[&str]) -> Finished {
    let directory = directory.to_str().unwrap();
    finish(&[before, &[directory], after].concat()).await
}

/// The lines of a command that ends so, each of them JSON.
async fn json(directory: &Path, before: &[&str], after: &[&str], code: i32) -> Vec<Value> {
    let finished = on(directory, before, &[after, &["--format", "json"]].concat()).await;
    assert_eq!(finished.code, Some(code), "{finished:?}");
    finished.stdout.lines().map(|line| serde_json::from_str(line).expect("one object a line")).collect()
}

/// What `inspect` says of the only journal there.
async fn inspect(directory: &Path) -> Value {
    let mut all = json(directory, &["journal", "inspect"], &[], 0).await;
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

/// `--to` of a sink.
fn to(sink: &Sink) -> String {
    format!("http://{}", sink.addr())
}

/// Has a sink count the requests in these lines.
async fn replayed(lines: &str, sink: &Sink) {
    let mut client = WebClient::connect(sink.addr()).await.unwrap();
    for line in lines.lines() {
        let headers = [("content-type", "application/json")];
        let reply = client.send("POST", path(Signal::Traces), &headers, line.as_bytes()).await.unwrap();
        assert_eq!(reply.status, 200, "{line}");
    }
}

/// Every file below a directory with what is in it.
fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(contents(&path));
        } else {
            let bytes = fs::read(&path).unwrap();
            all.insert(path, bytes);
        }
    }
    all
}

/// A journal owed to `otlp` with so many records of one span, made without an engine.
fn written(directory: &Path, run: u64, records: u64) -> Journal<OsFiles> {
    let files = OsFiles::create(directory).unwrap();
    let (mut journal, _) = Journal::open(files, Options::new(["otlp"])).unwrap();
    let template = TraceTemplate::new(run, 1);
    let context = Envelope { receiver: "otlp".into(), ..Envelope::default() }.to_bytes();
    for number in 0..records {
        let payload = [template.message(number)];
        let record = Record { items: 1, context: &context, payload: &payload, ..Record::default() };
        journal.append(&record).unwrap();
    }
    journal.commit(true).unwrap();
    journal
}

/// The first segment of a journal.
fn segment(directory: &Path) -> PathBuf {
    contents(directory).into_keys().find(|path| path.extension().is_some_and(|it| it == "seg")).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_exporter_is_owed_is_seen_written_out_and_sent_on() {
    let _turn = beside_others().await;
    let (alive, dead, listen) = (Sink::start("127.0.0.1:0").await.unwrap(), reserve(), reserve());
    let place = tempfile::tempdir().unwrap();
    let destinations = [("alive", alive.addr()), ("dead", dead)];
    let program = Program::run(&journaled(listen, place.path(), &destinations)).await;
    let load = load(listen, 20).await;

    // Beside the process that has it.
    let owed = async |exporter: &str| inspect(place.path()).await["owed"][exporter].as_u64();
    let alive_has_all = wait_until(async || owed("otlp/alive").await == Some(0), PATIENCE);
    assert!(alive_has_all.await, "{}", inspect(place.path()).await);
    let seen = inspect(place.path()).await;
    assert_eq!((&seen["format"], &seen["not_done"]), (&1.into(), &20.into()), "{seen}");
    assert_eq!((&seen["owed"]["otlp/dead"], &seen["dead_letters"]), (&20.into(), &0.into()), "{seen}");
    assert!(seen["oldest"].is_string() && seen["sound"] == true, "{seen}");
    let target = Sink::start("127.0.0.1:0").await.unwrap();
    let busy = on(place.path(), &["journal", "drain"], &["--to", &to(&target)]).await;
    assert_eq!(busy.code, Some(2), "{busy:?}");
    assert!(busy.stderr.contains("in use by a running process"), "{busy:?}");
    stop(program).await;

    // Looking changes nothing.
    let before = contents(place.path());
    let told = on(place.path(), &["journal", "verify"], &[]).await;
    assert_eq!(
        (told.code, told.stderr.as_str()),
        (Some(0), ""),
        "no bar is drawn where there is no terminal"
    );
    for part in ["traces\n", "otlp/dead  20", "otlp/alive 0", "damage       none", "20 not done"] {
        assert!(told.stdout.contains(part), "{part} is missing:\n{}", told.stdout);
    }
    let copy = Sink::start("127.0.0.1:0").await.unwrap();
    let lines = on(place.path(), &["journal", "export"], &[]).await;
    assert_eq!((lines.code, lines.stdout.lines().count()), (Some(0), 20), "{}", lines.stderr);
    replayed(&lines.stdout, &copy).await;
    assert!(verdict(&load, &copy.snapshot()).is_exact());
    let file = place.path().join("export.json");
    let quiet = on(place.path(), &["journal", "export"], &["--output", file.to_str().unwrap()]).await;
    assert_eq!((quiet.code, quiet.stdout.as_str()), (Some(0), ""), "{quiet:?}");
    assert_eq!(fs::read_to_string(&file).unwrap(), lines.stdout);
    fs::remove_file(&file).unwrap();
    assert_eq!(contents(place.path()), before);

    // Nobody else is sent what one exporter is owed.
    let to = to(&target);
    let with = |exporter| ["--to", to.as_str(), "--exporter", exporter];
    let nobody = on(place.path(), &["journal", "drain"], &with("otlp/none")).await;
    assert_eq!(nobody.code, Some(1), "{nobody:?}");
    assert!(nobody.stderr.contains("`otlp/alive`"), "{nobody:?}");
    let none = json(place.path(), &["journal", "drain"], &with("otlp/alive"), 0).await;
    assert_eq!((&none[0]["sent_records"], target.arrived()), (&0.into(), 0));
    let all = json(place.path(), &["journal", "drain"], &with("otlp/dead"), 0).await;
    assert_eq!((&all[0]["sent_records"], &all[0]["sent_items"]), (&20.into(), &200.into()), "{all:?}");
    assert_eq!(all[0]["still_owed_records"], 0);
    assert!(verdict(&load, &target.snapshot()).is_exact());
    assert_eq!(inspect(place.path()).await["not_done"], 0);
    let done = on(place.path(), &["journal", "export"], &["--all"]).await;
    assert_eq!((done.code, done.stdout.lines().count()), (Some(0), 20), "{}", done.stderr);

    // And it stays done for the process: its destination is back, and is sent what is new alone.
    let back = Sink::start(&dead.to_string()).await.unwrap();
    let program = Program::run(&journaled(listen, place.path(), &destinations)).await;
    let later = Loader::new(listen).spans_per_request(10).requests(1).run().await;
    assert!(back.wait_for(10, PATIENCE).await, "{}", program.stderr());
    stop(program).await;
    assert_eq!((later.acknowledged.len(), back.arrived()), (10, 10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_tries_again_and_goes_on_where_it_stopped() {
    let _turn = beside_others().await;
    for protocol in ["grpc", "http"] {
        let (listen, dead) = (reserve(), reserve());
        let place = tempfile::tempdir().unwrap();
        let mut program = Program::run(&format!(
            "[receivers.otlp.protocols.grpc]\nendpoint = \"{listen}\"\n\
             [extensions.file_storage]\ndirectory = {:?}\n\
             [exporters.\"otlp/dead\"]\nendpoint = \"http://{dead}\"\nsending_queue.storage = \"file_storage\"\n\
             [pipelines.traces]\nreceivers = [\"otlp\"]\nexporters = [\"otlp/dead\"]\n",
            place.path()
        ))
        .await;
        let load = load(listen, 30).await;
        program.signal("KILL");
        assert_eq!(program.exit().await, None);
        let queue = place.path().join("exporter_otlp~002fdead");
        assert!(queue.is_dir(), "{:?}", contents(place.path()).keys());

        let target = Sink::start("127.0.0.1:0").await.unwrap();
        let mut taken = 0;
        target.answer_by(move |_: &Arrival| {
            taken += 1;
            match taken {
                // A refusal on the way is tried again; those at the end last longer than the patience.
                3 | 5 => Answer::Unavailable { retry_delay: None },
                0..=12 => Answer::Ok,
                _ => Answer::Unavailable { retry_delay: Some(Duration::from_millis(10)) },
            }
        });
        let to = to(&target);
        let with =
            ["--to", to.as_str(), "--protocol", protocol, "--timeout", "300ms", "--set", "compression=none"];
        let some = json(place.path(), &["journal", "drain"], &with, 3).await;
        let left = some[0]["still_owed_records"].as_u64().unwrap();
        assert_eq!((&some[0]["sent_records"], left), (&10.into(), 20), "{protocol}: {some:?}");
        assert!(some[0]["stopped"].as_str().unwrap().contains("takes nothing"), "{some:?}");

        target.answer(Answer::Ok);
        let rest = json(&queue, &["journal", "drain"], &with, 0).await;
        assert_eq!(rest[0]["sent_records"], left, "{protocol}: {rest:?}");
        let verdict = verdict(&load, &target.snapshot());
        assert!(verdict.is_exact(), "{protocol}: {verdict:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_destination_does_not_take_stays() {
    let _turn = beside_others().await;
    let place = tempfile::tempdir().unwrap();
    drop(written(&place.path().join("traces"), 7, 10));
    let target = Sink::start("127.0.0.1:0").await.unwrap();
    let mut count = 0;
    target.answer_by(move |_: &Arrival| {
        count += 1;
        match count {
            1..=4 => Answer::Status(Code::INVALID_ARGUMENT, "no such tenant".into()),
            5 => Answer::Partial(1, "too old".into()),
            _ => Answer::Ok,
        }
    });
    let to = to(&target);
    let told = on(place.path(), &["journal", "drain"], &["--to", &to]).await;
    assert_eq!(told.code, Some(3), "{told:?}");
    for part in ["6 records sent (5 items), 4 rejected, 4 still owed", "4 x no such tenant", "1 x too old"] {
        assert!(told.stdout.contains(part), "{part} is missing:\n{}", told.stdout);
    }
    assert_eq!(inspect(place.path()).await["not_done"], 4);
    target.answer(Answer::Ok);
    let rest = json(place.path(), &["journal", "drain"], &["--to", &to], 0).await;
    assert_eq!((&rest[0]["sent_records"], &rest[0]["rejected_records"]), (&4.into(), &0.into()), "{rest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_are_listed_written_out_and_sent_again() {
    let _turn = beside_others().await;
    let (wrong, listen) = (Sink::start("127.0.0.1:0").await.unwrap(), reserve());
    wrong.answer(Answer::Status(Code::INVALID_ARGUMENT, "no such\ntenant".into()));
    let place = tempfile::tempdir().unwrap();
    let none = on(place.path(), &["deadletter", "list"], &[]).await;
    assert_eq!(none.code, Some(1), "no journal is no journal without letters: {none:?}");
    let program = Program::run(&journaled(listen, place.path(), &[("wrong", wrong.addr())])).await;
    let load = load(listen, 12).await;
    let letters = async || inspect(place.path()).await["dead_letters"].as_u64();
    let buried = wait_until(async || letters().await == Some(12), PATIENCE).await;
    assert!(buried, "{:?}\n{}", letters().await, program.stderr());

    let listed = json(place.path(), &["deadletter", "list"], &[], 0).await;
    assert_eq!(listed.len(), 12, "{listed:?}");
    for (at, letter) in (1..).zip(&listed) {
        assert_eq!(letter["sequence"], at, "{letter}");
        for (key, value) in [
            ("receiver", "otlp"),
            ("pipeline", "traces"),
            ("to", "otlp/wrong"),
            ("fault", "rejected"),
            ("signal", "traces"),
        ] {
            assert_eq!(letter[key], value, "{key}: {letter}");
        }
        assert!(letter["reason"].as_str().unwrap().contains("no such\ntenant"), "{letter}");
        assert_eq!(letter["items"], 10, "{letter}");
    }
    let newest = json(place.path(), &["deadletter", "list"], &["--limit", "2"], 0).await;
    assert_eq!(newest, listed[10..]);
    let table = on(place.path(), &["deadletter", "list"], &["--limit", "2"]).await;
    for part in ["12 dead letters", "REASON", "otlp (traces)", "otlp/wrong", "no such\\ntenant", "10 older"] {
        assert!(table.stdout.contains(part), "{part} is missing:\n{}", table.stdout);
    }
    let plain = on(place.path(), &["deadletter", "export"], &[]).await;
    let copy = Sink::start("127.0.0.1:0").await.unwrap();
    replayed(&plain.stdout, &copy).await;
    assert!(verdict(&load, &copy.snapshot()).is_exact());
    let told = on(place.path(), &["deadletter", "export"], &["--with-reason"]).await;
    for (line, bare) in told.stdout.lines().zip(plain.stdout.lines()) {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["request"], serde_json::from_str::<Value>(bare).unwrap());
        assert_eq!(line["letter"]["to"], "otlp/wrong");
    }

    // Also while the process runs: it has them only while some come.
    let target = Sink::start("127.0.0.1:0").await.unwrap();
    let to = to(&target);
    let sent = json(place.path(), &["deadletter", "replay"], &["--to", &to], 0).await;
    assert_eq!((&sent[0]["sent_records"], &sent[0]["sent_items"]), (&12.into(), &120.into()), "{sent:?}");
    assert!(verdict(&load, &target.snapshot()).is_exact());
    assert_eq!(letters().await, Some(0));
    assert_eq!(json(place.path(), &["deadletter", "list"], &[], 0).await, [] as [Value; 0]);
    stop(program).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_told_and_the_rest_is_given() {
    let _turn = beside_others().await;
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("traces");
    drop(written(&directory, 9, 30));
    let path = segment(&directory);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, &bytes).unwrap();

    let damaged = json(place.path(), &["journal", "verify"], &[], 5).await;
    assert_eq!(damaged[0]["sound"], false);
    let lost: u64 =
        damaged[0]["lost"].as_array().unwrap().iter().filter_map(|it| it["records"].as_u64()).sum();
    assert_eq!(lost, 1, "{damaged:?}");
    let before = contents(place.path());
    let lines = on(place.path(), &["journal", "export"], &[]).await;
    assert_eq!((lines.code, lines.stdout.lines().count()), (Some(5), 29), "{}", lines.stderr);
    assert!(lines.stderr.contains("1 records"), "{}", lines.stderr);
    assert_eq!(contents(place.path()), before);

    let target = Sink::start("127.0.0.1:0").await.unwrap();
    let sent = json(place.path(), &["journal", "drain"], &["--to", &to(&target)], 5).await;
    assert_eq!((&sent[0]["sent_records"], target.arrived()), (&29.into(), 29), "{sent:?}");
    // What could not be read was set aside, and is not told again by a drain.
    let again = json(place.path(), &["journal", "drain"], &["--to", &to(&target)], 0).await;
    assert_eq!((&again[0]["sent_records"], target.arrived()), (&0.into(), 29), "{again:?}");
    let seen = inspect(place.path()).await;
    assert_eq!(seen["set_aside"].as_array().map(Vec::len), Some(1), "{seen}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_journal_below_a_directory_is_taken_in_order() {
    let _turn = beside_others().await;
    let place = tempfile::tempdir().unwrap();
    let taken = written(&place.path().join("a/first"), 1, 3);
    drop(written(&place.path().join("a/second"), 2, 4));
    drop(written(&place.path().join("b"), 3, 5));
    // Of a pipeline without a journal: no journal's business.
    let letters = place.path().join("pipeline_c");
    drop(written(&letters.join("dead-letters"), 4, 2));
    assert_eq!(json(place.path(), &["deadletter", "list"], &[], 0).await.len(), 2);
    let records = |all: &[Value], key: &str| -> Vec<(String, u64)> {
        let name = |value: &Value| value["journal"].as_str().unwrap().to_owned();
        let short = |name: String| name.rsplit('/').next().unwrap().to_owned();
        all.iter().map(|one| (short(name(one)), one[key].as_u64().unwrap())).collect()
    };
    let all = json(place.path(), &["journal", "inspect"], &[], 0).await;
    let expected = [("first", 3), ("second", 4), ("b", 5)].map(|(name, count)| (name.to_owned(), count));
    assert_eq!(records(&all, "not_done"), expected);

    // One that can not be had keeps none of the others, and is not forgotten.
    let target = Sink::start("127.0.0.1:0").await.unwrap();
    let sent = json(place.path(), &["journal", "drain"], &["--to", &to(&target)], 2).await;
    assert_eq!(records(&sent, "sent_records"), expected[1..]);
    assert_eq!(target.arrived(), 9);
    drop(taken);
    let rest = json(place.path(), &["journal", "drain"], &["--to", &to(&target)], 0).await;
    assert_eq!(rest[0]["sent_records"], 3, "{rest:?}");

    for (arguments, said) in [
        (["journal", "inspect", "missing"], "does not exist"),
        (["journal", "inspect", env!("CARGO_MANIFEST_DIR")], "there is no journal"),
        (["journal", "inspect", letters.to_str().unwrap()], "there is no journal"),
        (["deadletter", "list", env!("CARGO_BIN_EXE_watershed")], "is not a directory"),
    ] {
        let Finished { code, stdout, stderr } = finish(&arguments).await;
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
        assert!(stderr.contains(said), "{stderr}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_has_seen_enough_is_no_failure() {
    let _turn = beside_others().await;
    let place = tempfile::tempdir().unwrap();
    drop(written(place.path(), 5, 5_000));
    let mut command = Command::new(env!("CARGO_BIN_EXE_watershed"));
    command.args(["journal", "export"]).arg(place.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("{\"resourceSpans\""), "{line}");
    let output = tokio::task::spawn_blocking(move || child.wait_with_output()).await.unwrap().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*told), (Some(0), ""));
}
