//! Tests of the options.

use super::*;

fn parse(text: &str) -> Result<Options, OptionsError> {
    Options::parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
}

#[test]
fn everything_goes_where_it_belongs() {
    let options = parse(
        "--driver qmp --start a=/s/a --vm a=/q/a --vm b=/q/b --console b=/c/b --verbs status,stop --spool /sp --item-seconds 1
         --capture-seconds 2 --verify-seconds 3 --memory-seconds 4 --memory-dump --log-socket /l cycle a more",
    )
    .expect("parses");
    let id = |text| VmId::of(text).expect("an id");
    let a = Machine { socket: Some("/q/a".into()), start: Some("/s/a".into()), console: None };
    let b = Machine { socket: Some("/q/b".into()), start: None, console: Some("/c/b".into()) };
    let seconds = Duration::from_secs;
    assert_eq!(
        options,
        Options {
            kind: Kind::Qmp,
            machines: BTreeMap::from([(id("a"), a), (id("b"), b)]),
            verbs: vec![Verb::Status, Verb::Stop],
            limits: Limits { item: seconds(1), capture: seconds(2), verify: seconds(3), memory: seconds(4) },
            places: Places {
                qm: "/usr/sbin/qm".into(),
                pvesh: "/usr/bin/pvesh".into(),
                virsh: "/usr/bin/virsh".into(),
                connection: "qemu:///system".into(),
                spool: "/sp".into(),
                log: "/l".into(),
            },
            memory_dump: true,
            check: false,
            words: vec!["cycle".into(), "a".into(), "more".into()],
        }
    );
}

#[test]
fn what_is_left_out_has_its_default() {
    let options = parse("--driver virsh --vm web --check").expect("parses");
    assert_eq!(options.verbs, Verb::ALL.to_vec());
    assert_eq!((options.limits.item.as_secs(), options.limits.capture.as_secs()), (10, 45));
    assert_eq!((options.limits.verify.as_secs(), options.limits.memory.as_secs()), (60, 120));
    assert_eq!(options.places.spool, Path::new("/var/tmp"));
    assert!(!options.memory_dump && options.check && options.words.is_empty());
}

#[test]
fn mistakes_are_named() {
    let cases = [
        ("", "--driver is missing: qm, virsh or qmp"),
        ("--driver xen", "--driver xen: use qm, virsh or qmp"),
        ("--driver qm", "--vm is missing: name at least one VM"),
        ("--driver", "--driver needs a value"),
        ("--driver qm --vm 102 --skiplock 1", "there is no option --skiplock"),
        ("--driver qm --vm web", "--vm web: a VM of Proxmox is a number"),
        ("--driver qm --vm 102=/a", "--vm 102: only the qmp driver takes a socket"),
        ("--driver qm --vm 102 --start 102=/a", "--vm 102: only the qmp driver takes --start"),
        ("--driver qm --vm 102 --vm 102", "--vm 102: this VM is named twice"),
        ("--driver qm --vm -102", "--vm -102: an id is letters, digits, `.`, `_` and `-`, at most 63"),
        ("--driver qmp --vm a", "--vm a: with the qmp driver, give its QMP socket: --vm ID=SOCKET"),
        ("--driver qmp --vm a=relative", "--vm a=relative: give an absolute path"),
        ("--driver qmp --vm a=/b/../c", "--vm a=/b/../c: give an absolute path"),
        ("--driver qmp --vm a=/b --console c=/d", "--console names c, which no --vm allows"),
        ("--driver qm --vm 102 --item-seconds 0", "--item-seconds 0: give seconds, from 1 to 3600"),
        ("--driver qm --vm 102 --verbs status,", "--verbs status,: use status, forensics, reset, stop, start, cycle"),
    ];
    for (text, message) in cases {
        assert_eq!(parse(text).expect_err(text).to_string(), message, "{text}");
    }
    assert!(parse("--driver virsh --vm 7").expect_err("a number").to_string().contains("UUID"));
}
