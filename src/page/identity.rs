//! Who asks: the name that the ingress proxy puts into a header, believed only from the proxy's own addresses. Pure.

use hyper::HeaderMap;
use ipnet::IpNet;
use std::net::IpAddr;

/// Longest name that is taken.
const LONGEST: usize = 256;

/// Whom the page believes.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the header in which the proxy says who the user is.
    pub identity_header: String,
    /// Addresses that the proxy connects from.
    pub proxies: Vec<IpNet>,
}

/// Why nobody is let in.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The connection does not come from the proxy.
    #[error("{0} is not an address of the configured proxies: open this page through the ingress")]
    Outside(IpAddr),
    /// The proxy named nobody.
    #[error("the proxy sent no {0} header: authentication at the ingress is missing")]
    Absent(String),
    /// Two headers: one of them may be the user's own.
    #[error("there is more than one {0} header: the ingress must replace what the user sent")]
    Ambiguous(String),
    /// Not a name.
    #[error("the {0} header is not one name of 1 to 256 printable ASCII characters without a comma")]
    NotAName(String),
}

impl Settings {
    /// The user that the proxy names.
    ///
    /// A comma is refused because a proxy that joins a header of the user's own with its own leaves one.
    ///
    /// # Errors
    /// The peer is not a proxy, or the header is missing, doubled or not a plain name.
    pub fn identify<'h>(&self, peer: IpAddr, headers: &'h HeaderMap) -> Result<&'h str, Refusal> {
        let peer = peer.to_canonical();
        if !self.proxies.iter().any(|proxy| proxy.contains(&peer)) {
            return Err(Refusal::Outside(peer));
        }
        let header = || self.identity_header.clone();
        let mut values = headers.get_all(self.identity_header.as_str()).iter();
        let value = values.next().ok_or_else(|| Refusal::Absent(header()))?;
        if values.next().is_some() {
            return Err(Refusal::Ambiguous(header()));
        }
        let name = value.to_str().map_err(|_| Refusal::NotAName(header()))?;
        let printable = name.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b',');
        if name.trim().is_empty() || name.len() > LONGEST || name.trim() != name || !printable {
            return Err(Refusal::NotAName(header()));
        }
        Ok(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    const PROXY: &str = "10.0.0.7";

    fn settings() -> Settings {
        Settings {
            identity_header: "X-Forwarded-User".into(),
            proxies: ["10.0.0.0/29", "2001:db8::/64"].iter().map(|text| text.parse().expect("a network")).collect(),
        }
    }

    fn headers(values: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("x-forwarded-user", HeaderValue::from_bytes(value).expect("a header"));
        }
        headers
    }

    fn identify(peer: &str, values: &[&[u8]]) -> Result<String, Refusal> {
        settings().identify(peer.parse().expect("an address"), &headers(values)).map(str::to_owned)
    }

    #[test]
    fn the_proxy_is_believed() {
        for peer in [PROXY, "::ffff:10.0.0.1", "2001:db8::9"] {
            assert_eq!(identify(peer, &[b"alice@example.com"]), Ok("alice@example.com".into()), "{peer}");
        }
        assert_eq!(identify(PROXY, &[b"Alice Ng"]), Ok("Alice Ng".into()));
        assert_eq!(identify(PROXY, &[&[b'a'; LONGEST]]), Ok("a".repeat(LONGEST)));
    }

    #[test]
    fn nobody_else_is() {
        for peer in ["10.0.0.8", "127.0.0.1", "::1", "2001:db8:0:1::9", "::ffff:10.0.0.8"] {
            assert!(matches!(identify(peer, &[b"alice"]), Err(Refusal::Outside(_))), "{peer}");
        }
        let nobody = Settings { proxies: vec![], ..settings() };
        assert!(nobody.identify("10.0.0.7".parse().expect("an address"), &headers(&[b"alice"])).is_err());
    }

    #[test]
    fn only_one_plain_name_counts() {
        let header = || "X-Forwarded-User".to_owned();
        assert_eq!(identify(PROXY, &[]), Err(Refusal::Absent(header())));
        assert_eq!(identify(PROXY, &[b"mallory", b"alice"]), Err(Refusal::Ambiguous(header())));
        assert_eq!(identify(PROXY, &[b"alice", b"alice"]), Err(Refusal::Ambiguous(header())));
        for bad in [&b""[..], b" ", b"alice ", b"a\tb", b"mallory, alice", "zoë".as_bytes(), b"\xff", &[b'a'; LONGEST + 1]] {
            assert_eq!(identify(PROXY, &[bad]), Err(Refusal::NotAName(header())), "{bad:?}");
        }
    }

    #[test]
    fn a_similar_header_is_another_header() {
        let mut headers = HeaderMap::new();
        headers.insert("x_forwarded_user", HeaderValue::from_static("mallory"));
        headers.insert("x-forwarded-users", HeaderValue::from_static("mallory"));
        assert!(matches!(settings().identify(PROXY.parse().expect("an address"), &headers), Err(Refusal::Absent(_))));
    }
}
