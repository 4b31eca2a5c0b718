//! What a mistake looks like, and that all are told at once.

use crate::{around, bad, errors, file};

#[test]
fn five_mistakes_are_five_errors_each_in_its_place() {
    let text = r#"[receivers.otlp.protocols.grpc]
endpiont = "localhost:4317"
[receivers.otlp]
timeout = "5"

[receivers.oltp]

[processors.batch]
send_batch_size = "5"

[pipelines.traces]
receivers = ["otlp"]
processors = ["batch"]
exporters = ["debug", "otpl"]
"#;
    assert_eq!(
        errors(text),
        [
            "f.toml:2:1 unknown key `endpiont`",
            "f.toml:4:11 `timeout`: \"5\" has no unit: use ns, us, ms, s, m or h, as in \"5s\"",
            "f.toml:6:12 there is no receiver type `oltp`",
            "f.toml:9:19 `send_batch_size`: expected an integer of 0 or more, found the string \"5\"",
            "f.toml:14:23 there is no exporter type `otpl`",
        ]
    );
    let helps: Vec<_> =
        bad(&file(text)).errors.into_iter().map(|error| error.help.unwrap_or_default()).collect();
    assert_eq!(helps[0], "did you mean `endpoint`? (keys here: `endpoint`, `max_recv_msg_size_mib`)");
    assert_eq!(helps[2], "did you mean `otlp`? (receiver types: `otlp`, `otlp_grpc`, `zipkin`)");
    assert_eq!(helps[4], "did you mean `otlp`? (exporter types: `debug`, `otlp`, `otlp_grpc`)");
}

#[test]
fn an_error_is_shown_with_its_line() {
    let shown = bad(&file(&around("[exporters.debug]\n\tverbosty = \"basic\""))).to_string();
    let expected = "error: unknown key `verbosty`
  --> f.toml:2:2
   |
 2 |     verbosty = \"basic\"
   |     ^^^^^^^^
   = help: did you mean `verbosity`? (keys here: `verbosity`, `sending_queue`)

1 error: nothing was started";
    assert_eq!(shown, expected);
}

#[test]
fn several_mistakes_in_one_component_are_all_told() {
    let text = around(
        r#"[exporters.otlp]
endpoint = 5
compresion = "gzip"
timeout = "1 fortnight"
[exporters.otlp.headers]
"x.y" = 1
[exporters.otlp.sending_queue]
queue_size = -1
sizer = "byte"
batch = { min_size = 1.5 }
[exporters.otlp.retry_on_failure]
multiplier = 0.5
"#,
    );
    assert_eq!(
        errors(&text),
        [
            "f.toml:2:12 `endpoint`: expected a string, found the number 5",
            "f.toml:3:1 unknown key `compresion`",
            "f.toml:4:11 `timeout`: \"1 fortnight\" has an unknown unit \" fortnight\": use ns, us, ms, s, m or h",
            "f.toml:6:9 `headers.x.y`: expected a string, found the number 1",
            "f.toml:8:14 `sending_queue.queue_size`: expected an integer of 0 or more, found the number -1",
            "f.toml:9:9 `sending_queue.sizer`: expected one of `requests`, `items`, `bytes`, found the string \"byte\"",
            "f.toml:10:22 `sending_queue.batch.min_size`: expected an integer of 0 or more, found the number 1.5",
        ]
    );
}

#[test]
fn rules_of_a_kind_are_told_at_their_key() {
    let text = around(
        r#"[exporters.otlp]
endpoint = "localhost"
[exporters.otlp.sending_queue]
num_consumers = 0
sizer = "items"
batch = { max_size = 5 }
"#,
    );
    assert_eq!(
        errors(&text),
        [
            "f.toml:2:12 `endpoint`: \"localhost\" has no scheme: write it like \"http://…\"",
            "f.toml:4:17 `sending_queue.num_consumers`: must be positive",
            "f.toml:6:1 `sending_queue.batch.min_size`: must be less than or equal to `queue_size`",
            "f.toml:6:22 `sending_queue.batch.max_size`: (5) must be greater or equal to `min_size` (8192)",
        ]
    );
}

#[test]
fn a_missing_key_is_told_at_its_table_unless_it_was_misspelt() {
    assert_eq!(errors(&around("[exporters.otlp]")), ["f.toml:1:12 the key `endpoint` is missing"]);
    assert_eq!(errors(&around("exporters.otlp.endpont = \"x\"")), ["f.toml:1:16 unknown key `endpont`"]);
    assert_eq!(
        errors(&around("[receivers.otlp]\nprotocols = { grpc = {} }")),
        ["f.toml:2:15 `protocols.grpc`: the key `endpoint` is missing"]
    );
}

#[test]
fn what_is_no_table_is_told() {
    let text = around("receivers = 5\nexporters.otlp = \"x\"\nprocessors.batch = []\nservice = true");
    assert_eq!(
        errors(&text),
        [
            "f.toml:1:13 expected a table, found the number 5",
            "f.toml:2:18 expected a table, found the string \"x\"",
            "f.toml:3:20 expected a table, found a list",
            "f.toml:4:11 expected a table, found the boolean true",
        ]
    );
}

#[test]
fn pipelines_are_a_table() {
    assert_eq!(errors("pipelines = 5"), ["f.toml:1:13 expected a table, found the number 5"]);
    assert_eq!(errors("agent = 5"), ["f.toml:1:9 expected a table, found the number 5"]);
    assert_eq!(errors("[pipelines]\ntraces = []"), ["f.toml:2:10 expected a table, found a list"]);
}

#[test]
fn syntax_errors_are_told_and_nothing_else() {
    let errors = errors("[receivers.otlp]\na = \nb = 2\nb = 3\n[pipelines.\n");
    assert!(errors.iter().all(|error| error.starts_with("f.toml:")), "{errors:?}");
    assert!(errors.iter().any(|error| error.starts_with("f.toml:4:1 duplicate key")), "{errors:?}");
    assert!(errors.iter().any(|error| error.starts_with("f.toml:2:")), "{errors:?}");
}

#[test]
fn a_file_that_can_not_be_read_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bad.toml");
    std::fs::write(&path, b"a = 1\nb = \"\xff\"\n").unwrap();
    let mut sources = file("");
    sources.files = vec![path, directory.path().join("none.toml")];
    let errors: Vec<String> = bad(&sources).errors.iter().map(crate::located).collect();
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(errors[0].starts_with("can not read `") && errors[0].contains("none.toml`"), "{errors:?}");
    assert!(errors[1].ends_with("bad.toml:2:6 this is not UTF-8"), "{errors:?}");
}

#[test]
fn nothing_at_all_is_an_error() {
    assert_eq!(errors(""), ["f.toml:1:1 the collector has no pipelines: there is nothing to do"]);
    assert_eq!(bad(&Default::default()).errors.len(), 1);
}

#[test]
fn columns_count_characters() {
    let text = around("[processors]\n\"attributes/é\" = { \"ü\" = 1 }");
    assert_eq!(errors(&text), ["f.toml:2:20 unknown key `ü`"]);
}
