//! Claims, and what the configuration says about them: patterns that they match, and templates that they fill.

use std::collections::BTreeMap;

/// Claims of a verified token: strings as they are, numbers and truth values as JSON writes them. Nested ones are left out.
pub type Claims = BTreeMap<String, String>;

/// `*` stands for one or more characters.
pub(super) fn matches(pattern: &str, value: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == value,
        Some((before, after)) => {
            value.strip_prefix(before).and_then(|rest| rest.strip_suffix(after)).is_some_and(|middle| !middle.is_empty())
        }
    }
}

/// The parts of a template: what is literal, and names of claims.
pub(super) fn parts(template: &str) -> Option<Vec<Part<'_>>> {
    let mut found = Vec::new();
    let mut rest = template;
    while let Some((literal, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}')?;
        if literal.contains('}') || name.is_empty() || name.contains('{') {
            return None;
        }
        found.extend([Part::Literal(literal), Part::Claim(name)]);
        rest = after;
    }
    if rest.contains('}') {
        return None;
    }
    found.push(Part::Literal(rest));
    Some(found)
}

pub(super) enum Part<'a> {
    Literal(&'a str),
    Claim(&'a str),
}

/// Fills in claims.
///
/// # Errors
/// The name of the first claim that is missing.
pub fn fill<'a>(template: &'a str, claims: &Claims) -> Result<String, &'a str> {
    let mut filled = String::new();
    for part in parts(template).unwrap_or_default() {
        match part {
            Part::Literal(text) => filled.push_str(text),
            Part::Claim(name) => filled.push_str(claims.get(name).ok_or(name)?),
        }
    }
    Ok(filled)
}
