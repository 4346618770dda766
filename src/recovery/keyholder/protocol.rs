//! The ssh-agent protocol, as far as the keyholder speaks it: messages in, messages out (draft-miller-ssh-agent, OpenSSH's PROTOCOL.agent).
//! Pure. It must not know a key.
//!
//! Anything but listing and signing is answered by a failure, as the draft wants it (section 3.1). So is `session-bind@openssh.com`: it
//! serves keys that are bound to destinations, there are none here, and OpenSSH goes on without it.

use super::signer::Hash;

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;
/// Flag of a signature request: `rsa-sha2-256`.
const RSA_SHA2_256: u32 = 2;
/// Flag of a signature request: `rsa-sha2-512`.
const RSA_SHA2_512: u32 = 4;

/// A client's message, without its length.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked<'a> {
    /// Which keys there are.
    Identities,
    /// A signature.
    Sign {
        /// A public key or a certificate.
        blob: &'a [u8],
        /// What to sign.
        data: &'a [u8],
        /// Which algorithm, for RSA.
        flags: u32,
    },
    /// Anything else.
    Other,
}

/// Takes a message apart.
pub fn parse(message: &[u8]) -> Asked<'_> {
    match message.split_first() {
        Some((&REQUEST_IDENTITIES, [])) => Asked::Identities,
        Some((&SIGN_REQUEST, rest)) => sign_request(rest).unwrap_or(Asked::Other),
        _ => Asked::Other,
    }
}

fn sign_request(rest: &[u8]) -> Option<Asked<'_>> {
    let (blob, rest) = string(rest)?;
    let (data, rest) = string(rest)?;
    let flags = u32::from_be_bytes(rest.try_into().ok()?);
    Some(Asked::Sign { blob, data, flags })
}

/// A string with its length before it (RFC 4251 section 5), and what follows it.
fn string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

/// With which hash to sign. None for an RSA key without a flag: that asks for SHA-1.
pub fn hash(flags: u32, is_rsa: bool) -> Option<Hash> {
    if flags & RSA_SHA2_256 != 0 {
        return Some(Hash::Sha256);
    }
    (flags & RSA_SHA2_512 != 0 || !is_rsa).then_some(Hash::Sha512)
}

/// The answer to [`Asked::Identities`], with its length before it.
pub fn identities(list: &[(Vec<u8>, &'static str)]) -> Vec<u8> {
    let mut body = vec![IDENTITIES_ANSWER];
    body.extend(length(list.len()));
    for (blob, comment) in list {
        for part in [blob.as_slice(), comment.as_bytes()] {
            body.extend(length(part.len()));
            body.extend(part);
        }
    }
    message(&body)
}

/// The answer to [`Asked::Sign`].
pub fn signature(signature: &[u8]) -> Vec<u8> {
    let mut body = vec![SIGN_RESPONSE];
    body.extend(length(signature.len()));
    body.extend(signature);
    message(&body)
}

/// The answer to anything that is not done.
pub fn failure() -> Vec<u8> {
    message(&[FAILURE])
}

fn message(body: &[u8]) -> Vec<u8> {
    [&length(body.len())[..], body].concat()
}

/// Nothing here is longer than four bytes can say.
fn length(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_the_draft() {
        assert_eq!(parse(&[11]), Asked::Identities);
        let wire = b"\x0d\0\0\0\x03key\0\0\0\x04data\0\0\0\x02";
        assert_eq!(parse(wire), Asked::Sign { blob: b"key", data: b"data", flags: 2 });
        assert_eq!(identities(&[(b"key".to_vec(), "t")]), b"\0\0\0\x11\x0c\0\0\0\x01\0\0\0\x03key\0\0\0\x01t");
        assert_eq!(identities(&[]), b"\0\0\0\x05\x0c\0\0\0\0");
        assert_eq!(signature(b"sig"), b"\0\0\0\x08\x0e\0\0\0\x03sig");
        assert_eq!(failure(), b"\0\0\0\x01\x05");
    }

    #[test]
    fn everything_else_fails() {
        for message in [
            &b""[..],
            b"\x01",
            b"\x0b\0",
            b"\x0d",
            b"\x0d\0\0\0\x03ke",
            b"\x0d\xff\xff\xff\xffkey",
            b"\x0d\0\0\0\x03key\0\0\0\x04data",
            b"\x0d\0\0\0\x03key\0\0\0\x04data\0\0\0\x02\0",
            b"\x11\0\0\0\x03key",
            b"\x1b\0\0\0\x18session-bind@openssh.com",
        ] {
            assert_eq!(parse(message), Asked::Other, "{message:?}");
        }
    }

    #[test]
    fn rsa_signs_with_sha2_or_not_at_all() {
        assert_eq!(hash(0, true), None);
        assert_eq!(hash(1, true), None);
        assert_eq!(hash(2, true), Some(Hash::Sha256));
        assert_eq!(hash(4, true), Some(Hash::Sha512));
        assert_eq!(hash(6, true), Some(Hash::Sha256), "as OpenSSH's agent decides");
        assert_eq!(hash(0, false), Some(Hash::Sha512));
    }
}
