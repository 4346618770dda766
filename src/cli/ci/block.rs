//! The framed block in the log of a build. Pure.

use super::report::Report;
use crate::domain::line;

/// Room in a log that people read in a browser.
const WIDTH: usize = 78;

/// What became of the session.
pub(super) fn of_report(report: &Report) -> String {
    if report.open { opened(report) } else { not_opened(report) }
}

fn opened(report: &Report) -> String {
    let mut lines = vec![
        "The build failed. Until the session ends you can look into it:".to_owned(),
        String::new(),
        format!("    {}", report.command.as_deref().unwrap_or("ssh: the session does not say how")),
        String::new(),
    ];
    lines.extend(report.known_hosts.iter().map(|line| format!("host key  {line}")));
    lines.push(format!("ends      {}", report.expires_at.as_deref().unwrap_or("at its TTL")));
    if !report.stripped.is_empty() {
        lines.push(format!("left out  {}", report.stripped.join(", ")));
    }
    lines.push(format!("session   {}/{}: a fresh pod of the build's image, recorded", report.namespace, report.name));
    framed(&lines)
}

fn not_opened(report: &Report) -> String {
    let what = if report.over {
        "The build failed, and its session is not open:"
    } else {
        "The build failed, and its session has not opened yet:"
    };
    let mut lines = vec![what.to_owned(), String::new(), format!("    {}", report.message), String::new()];
    if !report.over {
        lines.push("It may still open:".into());
        lines.push(format!("    kubectl wait --for=condition=Open debugsession/{} -n {} --timeout=5m", report.name, report.namespace));
    }
    lines.push("What stands in the way:".into());
    lines.push(format!("    kubectl describe debugsession/{} -n {}", report.name, report.namespace));
    framed(&lines)
}

/// Nothing was opened.
pub(super) fn of_failure(why: &str) -> String {
    framed(&["The build failed, and no session could be opened for it:".to_owned(), String::new(), format!("    {why}")])
}

/// The lines in a frame. A line that is too long stays whole: people copy from here.
fn framed(lines: &[String]) -> String {
    let rule = "─".repeat(WIDTH);
    let mut text = format!("┌─ Sandglass {}\n", "─".repeat(WIDTH - 11));
    for line in lines {
        text.push_str(format!("│ {}", plain(line)).trim_end());
        text.push('\n');
    }
    text + "└" + &rule
}

/// Without anything that acts on the terminal of who reads it, or on GitHub's runner (`##[` is a command to it), and on one line.
pub(super) fn plain(text: &str) -> String {
    line::plain(text, ' ').replace("##[", "## [")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            namespace: "ci".into(),
            name: "build-42".into(),
            open: true,
            over: false,
            message: "waiting for\n\x1b[31mci/other".into(),
            expires_at: Some("2026-01-01T00:30:00Z".into()),
            command: Some("ssh -p 2222 ci.build-42@debug.example.com".into()),
            known_hosts: vec!["[debug.example.com]:2222 ssh-ed25519 AAAA".into()],
            stripped: vec!["NPM_TOKEN".into(), "DSN".into()],
        }
    }

    #[test]
    fn an_open_session_says_how_to_get_in() {
        let text = of_report(&report());
        for words in [
            "    ssh -p 2222 ci.build-42@debug.example.com\n",
            "host key  [debug.example.com]:2222",
            "ends      2026-01-01T00:30:00Z",
            "NPM_TOKEN, DSN",
        ] {
            assert!(text.contains(words), "{text}");
        }
        assert!(text.lines().skip(1).take(7).all(|line| line.starts_with('│')), "{text}");
    }

    #[test]
    fn one_that_is_not_open_says_what_to_do_and_cannot_break_the_frame() {
        let waiting = of_report(&Report { open: false, ..report() });
        assert!(
            waiting.contains("not opened yet") && waiting.contains("kubectl wait") && waiting.contains("waiting for  [31mci/other"),
            "{waiting}"
        );
        let over = of_report(&Report { open: false, over: true, ..report() });
        assert!(!over.contains("kubectl wait") && over.contains("kubectl describe debugsession/build-42 -n ci"), "{over}");
        assert!(of_failure("no\r\nway").contains("no  way"));
        assert!(of_failure("##[error]a\u{202e}b").contains("## [error]a b"));
    }
}
