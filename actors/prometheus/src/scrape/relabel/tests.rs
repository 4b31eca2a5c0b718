//! Cases after Prometheus' `model/relabel`: what a list of rules makes of labels.

use super::{RelabelSettings, compile};
use crate::scrape::labels::Labels;

/// What these rules, each an inline table of TOML, make of `a=foo, b=bar, c=baz`.
fn relabelled(rules: &str) -> Option<Vec<(String, String)>> {
    on(&[("a", "foo"), ("b", "bar"), ("c", "baz")], rules)
}

fn on(labels: &[(&str, &str)], rules: &str) -> Option<Vec<(String, String)>> {
    #[derive(serde::Deserialize)]
    struct Rules {
        rules: Vec<RelabelSettings>,
    }
    let rules: Rules = toml::from_str(&format!("rules = [{rules}]")).unwrap();
    let rules = compile("rules", &rules.rules).unwrap();
    let mut labels: Labels = labels.iter().copied().collect();
    let kept = rules.iter().all(|rule| rule.apply(&mut labels));
    kept.then(|| labels.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

fn pairs(text: &str) -> Vec<(String, String)> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap();
        (name.trim().to_owned(), value.to_owned())
    };
    text.split(',').filter(|pair| !pair.is_empty()).map(pair).collect()
}

#[test]
fn each_action_does_what_prometheus_does() {
    for (rules, expected) in [
        // replace
        (
            "{ source_labels = ['a'], regex = 'f(.*)', target_label = 'd', replacement = 'ch${1}-ch$1' }",
            Some("a=foo,b=bar,c=baz,d=choo-choo"),
        ),
        (
            "{ source_labels = ['a', 'b'], regex = 'f(.*);(.*)r', target_label = 'a', replacement = 'b${1}${2}m' }",
            Some("a=boobam,b=bar,c=baz"),
        ),
        (
            "{ source_labels = ['a', 'b'], separator = '-', target_label = 'd' }",
            Some("a=foo,b=bar,c=baz,d=foo-bar"),
        ),
        ("{ source_labels = ['a'], regex = 'oo', target_label = 'd' }", Some("a=foo,b=bar,c=baz")),
        (
            "{ source_labels = ['a'], regex = '.*(b).*', target_label = 'd', replacement = '$1' }",
            Some("a=foo,b=bar,c=baz"),
        ),
        ("{ source_labels = ['a'], target_label = 'a', replacement = '' }", Some("b=bar,c=baz")),
        ("{ target_label = 'd', replacement = 'fixed' }", Some("a=foo,b=bar,c=baz,d=fixed")),
        (
            "{ source_labels = ['a'], regex = '(.*)', target_label = '${1}', replacement = 'x' }",
            Some("a=foo,b=bar,c=baz,foo=x"),
        ),
        (
            "{ source_labels = ['a'], regex = 'f(?P<rest>o*)', target_label = 'd', replacement = '${rest}!' }",
            Some("a=foo,b=bar,c=baz,d=oo!"),
        ),
        (
            "{ source_labels = ['a'], regex = '(f)oo', target_label = 'd', replacement = '$1x-$2-$$' }",
            Some("a=foo,b=bar,c=baz,d=--$"),
        ),
        (
            "{ source_labels = ['missing'], regex = '', target_label = 'd', replacement = 'absent' }",
            Some("a=foo,b=bar,c=baz,d=absent"),
        ),
        // keep, drop
        ("{ source_labels = ['a'], regex = 'foo', action = 'keep' }", Some("a=foo,b=bar,c=baz")),
        ("{ source_labels = ['a'], regex = 'fo', action = 'keep' }", None),
        ("{ source_labels = ['a'], regex = 'foo|x', action = 'drop' }", None),
        ("{ source_labels = ['a'], regex = 'x|fo', action = 'drop' }", Some("a=foo,b=bar,c=baz")),
        (
            "{ source_labels = ['a'], regex = 'foo', action = 'drop' }, { target_label = 'd', replacement = 'late' }",
            None,
        ),
        // keepequal, dropequal
        ("{ source_labels = ['a'], target_label = 'b', action = 'keepequal' }", None),
        ("{ source_labels = ['a'], target_label = 'a', action = 'keepequal' }", Some("a=foo,b=bar,c=baz")),
        ("{ source_labels = ['a'], target_label = 'a', action = 'dropequal' }", None),
        ("{ source_labels = ['a'], target_label = 'b', action = 'dropequal' }", Some("a=foo,b=bar,c=baz")),
        // hashmod: the last eight bytes of MD5
        (
            "{ source_labels = ['c'], target_label = 'd', action = 'hashmod', modulus = 1000 }",
            Some("a=foo,b=bar,c=baz,d=976"),
        ),
        // labelmap, labeldrop, labelkeep
        (
            "{ regex = '([ab])', replacement = 'x_$1', action = 'labelmap' }",
            Some("a=foo,b=bar,c=baz,x_a=foo,x_b=bar"),
        ),
        ("{ regex = '[bc]', action = 'labeldrop' }", Some("a=foo")),
        ("{ regex = '[bc]', action = 'labelkeep' }", Some("b=bar,c=baz")),
        // lowercase, uppercase
        (
            "{ source_labels = ['a', 'b'], target_label = 'd', action = 'uppercase' }",
            Some("a=foo,b=bar,c=baz,d=FOO;BAR"),
        ),
        ("{ source_labels = ['d'], target_label = 'a', action = 'lowercase' }", Some("b=bar,c=baz")),
    ] {
        assert_eq!(relabelled(rules), expected.map(pairs), "{rules}");
    }
}

#[test]
fn expressions_see_the_whole_of_a_value() {
    let rule = "{ source_labels = ['a'], regex = 'x.*y', target_label = 'hit', replacement = 'yes' }";
    assert_eq!(on(&[("a", "x\ny")], rule), Some(pairs("a=x\ny,hit=yes")));
    assert_eq!(on(&[("a", "x\nyz")], rule), Some(pairs("a=x\nyz")));
    let either = "{ source_labels = ['a'], regex = 'x|y', action = 'keep' }";
    assert_eq!(on(&[("a", "xz")], either), None);
}

#[test]
fn names_that_are_made_may_meet_others() {
    let rule = "{ regex = 'meta_(.*)', replacement = '$1', action = 'labelmap' }";
    assert_eq!(on(&[("meta_a", "new"), ("a", "old")], rule), Some(pairs("a=new,meta_a=new")));
}
