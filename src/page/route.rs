//! From path and query to what is asked for. Paths are never decoded: what needs an escape does not exist. Pure.

use super::source::{Filter, RecordingKey};
use chrono::NaiveDate;

/// Longest value of a query.
const LONGEST: usize = 256;

/// What a path asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Route<'p> {
    /// The list of sessions as a page.
    Sessions,
    /// The list of sessions by itself, for the script.
    SessionList,
    /// The list of recordings.
    Recordings,
    /// One recording.
    Recording(RecordingKey),
    /// The output of one channel.
    Cast(RecordingKey, u32),
    /// A file of the page itself.
    Asset(&'p str),
}

/// What `path` asks for; `None` if there is no such thing.
#[must_use]
pub fn route(path: &str) -> Option<Route<'_>> {
    match path {
        "/" => return Some(Route::Sessions),
        "/sessions" => return Some(Route::SessionList),
        "/recordings" => return Some(Route::Recordings),
        _ => {}
    }
    if let Some(name) = path.strip_prefix("/assets/") {
        return Some(Route::Asset(name));
    }
    let mut rest = path.strip_prefix("/recordings/")?.split('/');
    let key = RecordingKey::new([rest.next()?, rest.next()?, rest.next()?, rest.next()?, rest.next()?])?;
    match (rest.next(), rest.next()) {
        (None, _) => Some(Route::Recording(key)),
        (Some(file), None) => Some(Route::Cast(key, number(file.strip_prefix("channel-")?.strip_suffix(".cast")?)?)),
        _ => None,
    }
}

/// A channel's number as we write it: digits, no leading zero.
fn number(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

/// What is wrong with a query: for people.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// The same name twice.
    #[error("{0} is given twice")]
    Twice(String),
    /// Not text.
    #[error("a value is not percent-encoded UTF-8")]
    Encoding,
    /// A value without end.
    #[error("{0} is longer than 256 bytes")]
    TooLong(String),
    /// Not a day.
    #[error("the day is not of the form 2026-11-25")]
    Day,
    /// Not the number of a channel.
    #[error("the channel is not a number")]
    Channel,
}

/// The filter that the form of the list sends. Empty fields do not restrict, unknown ones are ignored.
///
/// # Errors
/// A field is given twice, is too long or is not what it should be.
pub fn filter(query: Option<&str>) -> Result<Filter, QueryError> {
    let mut fields = fields(query)?;
    let mut filter = Filter {
        namespace: take(&mut fields, "namespace")?,
        name: take(&mut fields, "name")?,
        commit: take(&mut fields, "commit")?,
        pull_request: take(&mut fields, "pullRequest")?,
        actor: take(&mut fields, "actor")?,
        day: None,
    };
    if let Some(day) = take(&mut fields, "day")? {
        let parsed = NaiveDate::parse_from_str(&day, "%Y-%m-%d").ok().filter(|parsed| parsed.to_string() == day);
        filter.day = Some(parsed.ok_or(QueryError::Day)?);
    }
    Ok(filter)
}

/// The channel that the player is asked for.
///
/// # Errors
/// It is given twice or is not a number.
pub fn channel(query: Option<&str>) -> Result<Option<u32>, QueryError> {
    take(&mut fields(query)?, "channel")?.map(|text| number(&text).ok_or(QueryError::Channel)).transpose()
}

type Fields = Vec<(String, String)>;

fn fields(query: Option<&str>) -> Result<Fields, QueryError> {
    let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(name, value)| Ok((decode(name)?, decode(value)?))).collect()
}

fn take(fields: &mut Fields, name: &str) -> Result<Option<String>, QueryError> {
    let mut values = fields.extract_if(.., |(field, _)| field == name).map(|(_, value)| value.trim().to_owned());
    let value = values.next().filter(|value| !value.is_empty());
    if values.next().is_some() {
        return Err(QueryError::Twice(name.to_owned()));
    }
    match value {
        Some(value) if value.len() > LONGEST => Err(QueryError::TooLong(name.to_owned())),
        value => Ok(value),
    }
}

/// Undoes the encoding of forms (URL Standard, application/x-www-form-urlencoded).
fn decode(text: &str) -> Result<String, QueryError> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => hex(bytes.next())? << 4 | hex(bytes.next())?,
            plain => plain,
        });
    }
    String::from_utf8(decoded).map_err(|_| QueryError::Encoding)
}

fn hex(digit: Option<u8>) -> Result<u8, QueryError> {
    let value = digit.and_then(|digit| char::from(digit).to_digit(16)).ok_or(QueryError::Encoding)?;
    u8::try_from(value).map_err(|_| QueryError::Encoding)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> RecordingKey {
        RecordingKey::new(["2026-11-25", "ci", "build-42", "u-1", "c-1"]).expect("plain")
    }

    #[test]
    fn each_path_has_one_meaning() {
        assert_eq!(route("/"), Some(Route::Sessions));
        assert_eq!(route("/sessions"), Some(Route::SessionList));
        assert_eq!(route("/recordings"), Some(Route::Recordings));
        assert_eq!(route("/recordings/2026-11-25/ci/build-42/u-1/c-1"), Some(Route::Recording(key())));
        assert_eq!(route("/recordings/2026-11-25/ci/build-42/u-1/c-1/channel-12.cast"), Some(Route::Cast(key(), 12)));
        assert_eq!(route("/assets/page.css"), Some(Route::Asset("page.css")));
    }

    #[test]
    fn other_paths_have_none() {
        for path in [
            "",
            "//",
            "/Recordings",
            "/recordings/",
            "/recordings/a/b/c/d",
            "/recordings/a/b/c/d/e/",
            "/recordings/a/b/c/d/e/f",
            "/recordings/a/b/c/d/e/channel-0.cast/x",
            "/recordings/a/../c/d/e",
            "/recordings/../../../etc/passwd",
            "/recordings/a/b/c/d/..%2f..%2fe",
            "/recordings/a/b/%2e%2e/d/e",
            "/recordings/a/b//d/e",
            "/recordings/a/b/c/d/e\\..\\f",
        ] {
            assert_eq!(route(path), None, "{path}");
        }
        for number in ["", "-1", "+1", "01", "1.0", "4294967296", "x"] {
            assert_eq!(route(&format!("/recordings/a/b/c/d/e/channel-{number}.cast")), None, "{number}");
        }
    }

    #[test]
    fn a_form_becomes_a_filter() {
        assert_eq!(filter(None), Ok(Filter::default()));
        assert_eq!(filter(Some("namespace=&name=&commit=&pullRequest=&actor=&day=&other=1")), Ok(Filter::default()));
        let all = "namespace=ci&name=build-42&commit=0a1b&pullRequest=%2317&actor=zo%C3%AB+ng&day=2026-11-25";
        let expected = Filter {
            namespace: Some("ci".into()),
            name: Some("build-42".into()),
            commit: Some("0a1b".into()),
            pull_request: Some("#17".into()),
            actor: Some("zoë ng".into()),
            day: NaiveDate::from_ymd_opt(2026, 11, 25),
        };
        assert_eq!(filter(Some(all)), Ok(expected));
    }

    #[test]
    fn mistakes_in_a_form_are_named() {
        assert_eq!(filter(Some("name=a&name=b")), Err(QueryError::Twice("name".into())));
        assert_eq!(filter(Some("name=%zz")), Err(QueryError::Encoding));
        assert_eq!(filter(Some("name=%4")), Err(QueryError::Encoding));
        assert_eq!(filter(Some("name=%ff")), Err(QueryError::Encoding));
        assert_eq!(filter(Some(&format!("name={}", "a".repeat(257)))), Err(QueryError::TooLong("name".into())));
        for day in ["2026-11-31", "2026-1-1", "%2B2026-11-25", "../x", "today"] {
            assert_eq!(filter(Some(&format!("day={day}"))), Err(QueryError::Day), "{day}");
        }
    }

    #[test]
    fn a_channel_is_a_number() {
        assert_eq!(channel(None), Ok(None));
        assert_eq!(channel(Some("channel=3")), Ok(Some(3)));
        assert_eq!(channel(Some("channel=3&channel=4")), Err(QueryError::Twice("channel".into())));
        for bad in ["x", "-1", "03", "99999999999"] {
            assert_eq!(channel(Some(&format!("channel={bad}"))), Err(QueryError::Channel), "{bad}");
        }
    }
}
