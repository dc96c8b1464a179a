//! Expressions and their values.

use serde_json::{Value, json};

use super::*;
use crate::schema::Schema;

/// Variables out of one JSON object.
struct Variables(Value);

impl<'a> Activation<'a> for &'a Variables {
    fn variable(&self, name: &str) -> Option<Val<'a>> {
        self.0.get(name).map(Val::json)
    }
}

fn object() -> Value {
    json!({"object": {
        "metadata": {"name": "web", "labels": {"app": "web", "a/b": "x"}},
        "spec": {"replicas": 3, "ports": [{"name": "http", "port": 80}, {"name": "tls", "port": 443}],
                 "share": 0.5, "hosts": ["a.example.com", "b.example.com"]},
    }})
}

fn evaluate(text: &str) -> Result<Value, String> {
    let variables = Variables(object());
    let program = Program::compile(text, &["object"])?;
    let value = program.evaluate(&&variables, &mut Budget::new(Budget::PER_CALL));
    value.and_then(|v| v.to_json()).map_err(|e| e.to_string())
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table of cases")]
fn expressions_have_upstream_s_values() {
    for (text, expected) in [
        ("1 + 2 * 3 - 4 / 2 % 3", json!(5)),
        (
            "-9223372036854775808 < 0 && 0x10 == 16 && 5u == 5",
            json!(true),
        ),
        ("1.5 + 0.5 == 2 && 7 / 2 == 3 && -7 % 3 == -1", json!(true)),
        (
            "'a' + \"b\" + r'\\n' + '\\u0041\\x42\\103'",
            json!("ab\\nABC"),
        ),
        (
            "b'abc' == bytes('abc') && '''a\nb'''.size() == 3",
            json!(true),
        ),
        (
            "object.spec.replicas <= 5 && object.metadata.name.startsWith('w')",
            json!(true),
        ),
        (
            "has(object.spec.missing) || has(object.spec.replicas)",
            json!(true),
        ),
        (
            "object.spec.ports.all(p, p.port > 0 && p.name != '')",
            json!(true),
        ),
        ("object.spec.ports.exists_one(p, p.port == 80)", json!(true)),
        (
            "object.spec.ports.map(p, p.port == 80, p.name)",
            json!(["http"]),
        ),
        (
            "object.spec.ports.filter(p, p.port > 100)[0].name",
            json!("tls"),
        ),
        (
            "object.spec.hosts.all(i, h, h.endsWith('.com') && i < 2)",
            json!(true),
        ),
        (
            "{'a': 1, 'b': 2}.transformMap(k, v, v + 1)",
            json!({"a": 2, "b": 3}),
        ),
        (
            "{'a': 1}.transformMapEntry(k, v, {v: k})",
            json!({"1": "a"}),
        ),
        (
            "object.metadata.labels['a/b'] == 'x' && 'app' in object.metadata.labels",
            json!(true),
        ),
        ("'c' in ['a', 'b'] ? 1 : 2", json!(2)),
        ("object.?spec.?missing.orValue(7)", json!(7)),
        ("object.metadata.labels[?'nope'].hasValue()", json!(false)),
        (
            "optional.of(1).optMap(x, x + 1).value() + optional.none().orValue(4)",
            json!(6),
        ),
        ("[1, ?optional.none(), ?optional.of(2)]", json!([1, 2])),
        ("{?'a': optional.none(), 'b': 1}", json!({"b": 1})),
        ("cel.bind(x, 2, x * x)", json!(4)),
        ("dyn([1, 'a', null]).size() + size({'a': 1})", json!(4)),
        (
            "type(1) == int && type('a') == string && type([]) == list",
            json!(true),
        ),
        ("int('12') + int(3.9) + int(4u)", json!(19)),
        (
            "string(1) + string(true) + string(1.5) + string(duration('90s'))",
            json!("1true1.590s"),
        ),
        (
            "duration('1h30m').getMinutes() + duration('-1.5s').getMilliseconds()",
            json!(-1410),
        ),
        (
            "timestamp('2024-02-29T10:20:30Z').getDayOfYear()",
            json!(59),
        ),
        (
            "timestamp('2024-01-01T00:00:00Z').getHours('-08:00')",
            json!(16),
        ),
        (
            "timestamp('2024-01-02T00:00:00Z') - timestamp('2024-01-01T00:00:00Z') == duration('24h')",
            json!(true),
        ),
        (
            "'hello'.charAt(1) + 'hello'.substring(1, 3) + 'a-b'.replace('-', '+')",
            json!("eela+b"),
        ),
        (
            "'tacocat'.indexOf('a') + 'tacocat'.lastIndexOf('a') + 'x'.indexOf('y')",
            json!(5),
        ),
        (
            "'a,b,c'.split(',', 2).join('|') + ' x '.trim().upperAscii()",
            json!("a|b,cX"),
        ),
        (
            "'%s has %d (%.2f) %x'.format(['a', 3, 1.5, 255])",
            json!("a has 3 (1.50) ff"),
        ),
        (
            "'abc'.matches('^a.c$') && 'a1b22'.findAll('[0-9]+').size() == 2",
            json!(true),
        ),
        ("'abc 123'.find('[0-9]+')", json!("123")),
        (
            "[3, 1, 2].sum() + [3, 1].min() + [1, 3].max() + [1, 2].indexOf(2)",
            json!(11),
        ),
        (
            "[1, 2, 3].isSorted() && [[1], [2]].flatten() == [1, 2] && [1, 1].distinct() == [1]",
            json!(true),
        ),
        (
            "sets.contains([1, 2], [1]) && !sets.intersects([1], [2]) && sets.equivalent([1, 1], [1])",
            json!(true),
        ),
        (
            "quantity('1.5Gi').isGreaterThan(quantity('1Gi')) && isQuantity('3k')",
            json!(true),
        ),
        (
            "quantity('500m').add(quantity('1')).compareTo(quantity('1500m'))",
            json!(0),
        ),
        (
            "quantity('2k').asInteger() + quantity('1').sub(1).asInteger()",
            json!(2000),
        ),
        (
            "url('https://u:p@h.example:8443/a/b?x=1&y=2').getHost()",
            json!("h.example:8443"),
        ),
        (
            "url('https://h:8443/a?x=1').getQuery()['x'][0] + url('/p').getEscapedPath()",
            json!("1/p"),
        ),
        (
            "isURL('not a url') || isIP('10.0.0.300') || isCIDR('10.0.0.0/33')",
            json!(false),
        ),
        (
            "cidr('10.1.0.0/16').containsIP('10.1.2.3') && cidr('10.0.0.0/8').containsCIDR('10.9.0.0/16')",
            json!(true),
        ),
        (
            "cidr('10.1.2.3/8').masked() == cidr('10.0.0.0/8') && ip('fe80::1').isLinkLocalUnicast()",
            json!(true),
        ),
        (
            "semver('1.2.3').isLessThan(semver('1.10.0')) && isSemver('v1.2', true) && !isSemver('1.2')",
            json!(true),
        ),
        (
            "!format.dns1123Label().validate('my-name').hasValue()",
            json!(true),
        ),
        (
            "format.named('dns1123Label').value().validate('My_Name').value().size() > 0",
            json!(true),
        ),
        ("jsonpatch.escapeKey('a/b~c')", json!("a~1b~0c")),
        (
            "Object{spec: Object.spec{replicas: 1}}",
            json!({"spec": {"replicas": 1}}),
        ),
        // One side that decides is enough.
        ("object.nope == 1 || true", json!(true)),
        ("true || object.nope == 1", json!(true)),
        ("[1, 2].exists(x, x == 2 || object.nope)", json!(true)),
        ("// a comment\n1 == 1.0 && 1u != 2", json!(true)),
    ] {
        assert_eq!(evaluate(text), Ok(expected), "{text}");
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    for (text, expected) in [
        ("object.nope", "no such key: nope"),
        ("object.spec.ports[9]", "index out of bounds: 9 of 2 items"),
        ("1 / 0", "division by zero"),
        ("9223372036854775807 + 1", "integer overflow"),
        ("1 + 'a'", "no such overload"),
        ("object.nope == 1 && true", "no such key: nope"),
        ("optional.none().value()", "optional.none() dereference"),
        ("'a'.matches('(')", "error parsing regexp: `(`"),
        ("'a'.substring(3)", "index out of range: 3"),
    ] {
        assert_eq!(evaluate(text), Err(expected.to_owned()), "{text}");
    }
}

#[test]
fn flaws_are_told_with_their_place() {
    for (text, expected) in [
        (
            "nope == 1",
            "ERROR: <input>:1:1: undeclared reference to 'nope' (in container '')\n | nope == 1\n | ^",
        ),
        (
            "1 +\n  foo(2)",
            "ERROR: <input>:2:3: undeclared reference to 'foo' (in container '')\n |   foo(2)\n | ..^",
        ),
        (
            "object.spec.",
            "ERROR: <input>:1:13: Syntax error: mismatched input '<EOF>'\n | object.spec.\n | ............^",
        ),
        (
            "x.map(1, 2)",
            "ERROR: <input>:1:7: argument must be a simple name\n | x.map(1, 2)\n | ......^",
        ),
    ] {
        assert_eq!(evaluate(text), Err(expected.to_owned()));
    }
    for text in [
        "1 +",
        "(1",
        "'a",
        "a.b(",
        "[1,",
        "{1}",
        "1 2",
        "has(object)",
        "#",
        "Pod{}",
        "if",
    ] {
        assert!(Program::compile(text, &["object"]).is_err(), "{text}");
    }
}

#[test]
fn nothing_grows_without_bound() {
    let deep = format!("{}1{}", "(".repeat(400), ")".repeat(400));
    assert!(evaluate(&deep).unwrap_err().contains("recursion limit"));
    let deep = format!("{}1", "-".repeat(400));
    assert!(evaluate(&deep).unwrap_err().contains("recursion limit"));
    let long = vec!["1"; 400].join(" + ");
    assert!(evaluate(&long).unwrap_err().contains("recursion limit"));
    let fits = vec!["1"; 150].join(" + ");
    assert_eq!(evaluate(&fits), Ok(json!(150)));
    let fits = format!("{}1{}", "[".repeat(45), "]".repeat(45));
    assert!(evaluate(&fits).is_ok());
    let wide = vec!["true"; 2000].join(" && ");
    assert_eq!(evaluate(&wide), Ok(json!(true)));
    assert!(
        evaluate(&"a".repeat(20_000))
            .unwrap_err()
            .contains("exceeds limit")
    );
    let nested =
        "lists.range(1000).all(a, lists.range(1000).all(b, lists.range(1000).all(c, true)))";
    assert_eq!(
        evaluate(nested),
        Err("operation cancelled: actual cost limit exceeded".to_owned())
    );
    let doubling = "cel.bind(a, 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx', [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24].map(x, a + a + a + a)).size()";
    assert_eq!(evaluate(doubling), Ok(json!(24)));
    let huge = "lists.range(900).map(x, lists.range(900).map(y, 'aaaaaaaaaaaaaaaaaaaaaaaaaa').join('')).join('').size()";
    assert!(evaluate(huge).is_err());
    assert!(evaluate("'a'.matches('((a{900}){900}){900}')").is_err());
}

#[test]
fn schemas_give_types() {
    let schema = Schema::from_crd(&json!({"type": "object", "properties": {
        "at": {"type": "string", "format": "date-time"},
        "share": {"type": "number"},
        "my-name": {"type": "string"},
        "namespace": {"type": "string"},
    }}))
    .unwrap();
    struct Typed(Value, Schema);
    impl<'a> Activation<'a> for &'a Typed {
        fn variable(&self, name: &str) -> Option<Val<'a>> {
            (name == "self").then(|| Val::typed(&self.0, Some(self.1.clone())))
        }
    }
    let value = json!({"at": "2024-01-01T00:00:00Z", "share": 1, "my-name": "x", "namespace": "n"});
    let held = Typed(value, schema);
    for text in [
        "self.at < timestamp('2025-01-01T00:00:00Z')",
        "self.share * 2.0 == 2.0",
        "self.my__dash__name == 'x'",
        "self.__namespace__ == 'n'",
    ] {
        let program = Program::compile(text, &["self"]).unwrap();
        let mut budget = Budget::new(Budget::PER_CALL);
        assert_eq!(program.holds(&&held, &mut budget), Ok(true), "{text}");
    }
}
