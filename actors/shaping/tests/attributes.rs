//! What the settings of `attributes` and `resource` mean, and what is wrong with them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use watershed_shaping::register;
use watershed_stage::{Part, Placement, Registry, Signal};

#[track_caller]
fn assert_errors(kind: &str, settings: &str, expected: &[(&str, &str)]) {
    let spec = register(Registry::new()).parse_processor(kind, toml::from_str(settings).unwrap()).unwrap();
    let errors = spec.err().unwrap_or_default();
    let fits = errors.len() == expected.len()
        && errors
            .iter()
            .zip(expected)
            .all(|(error, (at, about))| error.key == *at && error.message.contains(about));
    assert!(fits, "{errors:#?}");
}

#[test]
fn an_edit_says_what_it_does_and_with_what() {
    for (kind, list) in [("attributes", "actions"), ("resource", "attributes")] {
        let settings = |edits: &str| format!("{list} = [{edits}]");
        assert_errors(kind, "", &[("", &format!("missing required field \"{list}\""))]);
        let bad = settings(
            "{ key = 'a', action = 'insert', value = 1 },
             { key = '', action = 'insert', value = 1 },
             { key = 'b', action = 'upsert' },
             { key = 'c', action = 'delete', value = true },
             { key = 'd', action = 'update', value = [{}] },
             { key = 'd', action = 'update', value = {} },
             { key = 'e', action = 'insert', value = 1, from_attribute = 'f' },
             { key = 'f', action = 'insert', from_context = 'client.address', default_value = {} },
             { action = 'hash' },
             { key = 'g', action = 'extract' },
             { key = 'g', action = 'extract', pattern = 'no group' },
             { key = 'g', action = 'extract', pattern = '(?<named>a)(unnamed)' },
             { action = 'delete', pattern = '(' },
             { key = 'h', action = 'convert' },
             { key = 'h', action = 'convert', converted_type = 'int', pattern = 'a' }",
        );
        let at = |rest: &str| format!("{list}.{rest}");
        assert_errors(
            kind,
            &bad,
            &[
                (&at("1.key"), "has a name"),
                (&at("2"), "needs a `value`"),
                (&at("3.value"), "`delete` takes no `value`"),
                (&at("4.value"), "a list of them"),
                (&at("5.value"), "not a table"),
                (&at("6"), "several sources"),
                (&at("7.default_value"), "not a table"),
                (&at("8.key"), "or a `pattern` of keys"),
                (&at("9"), "needs a `pattern` with named groups"),
                (&at("10.pattern"), "each with a name"),
                (&at("11.pattern"), "each with a name"),
                (&at("12.pattern"), "is no regular expression: unclosed group"),
                (&at("13"), "needs a `converted_type`"),
                (&at("14.pattern"), "`convert` takes no `pattern`"),
            ],
        );
        let unknown = settings("{ key = 'a', action = 'rename' }");
        assert_errors(kind, &unknown, &[(&at("0.action"), "unknown variant")]);
        let boolean = settings("{ key = 'a', action = 'convert', converted_type = 'bool' }");
        assert_errors(kind, &boolean, &[(&at("0.converted_type"), "unknown variant")]);
    }
}

#[test]
fn include_and_exclude_say_what_they_mean() {
    let settings = |of: &str| format!("actions = [{{ key = 'a', action = 'delete' }}]\n{of}");
    let wrong = |of: &str, expected: &[(&str, &str)]| assert_errors("attributes", &settings(of), expected);
    wrong("include = { services = ['a'] }", &[("include", "missing field `match_type`")]);
    wrong("exclude = { match_type = 'strict' }", &[("exclude", "at least one of `services`")]);
    wrong("include = { match_type = 'strict', span_names = [] }", &[("include", "at least one of")]);
    wrong(
        "include = { match_type = 'strict', span_names = ['a'], log_bodies = ['b'] }",
        &[("include", "at once")],
    );
    wrong(
        "include = { match_type = 'strict', span_kinds = ['SPAN_KIND_CLIENT', 'client'] }",
        &[("include.span_kinds.1", "SPAN_KIND_SERVER")],
    );
    wrong(
        "[include]
         match_type = 'regexp'
         services = ['ok', '(']
         attributes = [{ key = 'a', value = 1 }, { key = '' }]
         resources = [{ key = 'a', value = '[' }]
         libraries = [{ name = '*', version = ')' }]
         [exclude]
         match_type = 'strict'
         attributes = [{ key = 'a', value = {} }]",
        &[
            ("include.services.1", "unclosed group"),
            ("include.resources.0.value", "unclosed character class"),
            ("include.attributes.0.value", "a value is a string, not a integer"),
            ("include.attributes.1.key", "must not be empty"),
            ("include.libraries.0.name", "is no regular expression"),
            ("include.libraries.0.version", "unopened group"),
            ("exclude.attributes.0.value", "not a table"),
        ],
    );
    wrong(
        "[include]
         match_type = 'regexp'
         regexp = { cacheenabled = true, cachemaxnumentries = 100 }
         services = ['^a']
         log_severity_number = { min = 9, match_undefined = true }",
        &[],
    );
    assert_errors(
        "resource",
        "attributes = [{ key = 'a', action = 'delete' }]\ninclude = {}",
        &[("include", "unknown field")],
    );
}

#[test]
fn edits_stand_on_every_lane_and_keep_nothing() {
    let settings = "actions = [{ key = 'a', action = 'delete' }]";
    let spec = register(Registry::new()).parse_processor("attributes", toml::from_str(settings).unwrap());
    let spec = spec.unwrap().unwrap();
    let Part::Stage(stage) = spec.part() else { panic!("a stage") };
    assert_eq!((stage.placement(), stage.holds()), (Placement::Lane, false));
    assert_eq!(stage.signals(), Signal::ALL);
}
