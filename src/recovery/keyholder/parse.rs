//! A private key from text as people store it: OpenSSH's format or PKCS#8, without a passphrase. For the short-lived processes only: what
//! parsing leaves behind ends with them. No message holds a byte of the text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use russh::keys::PrivateKey;
use russh::keys::pkcs8::decode_pkcs8;
use russh::keys::ssh_key::private::KeypairData;
use zeroize::Zeroizing;

/// Fewest bits of an RSA key; OpenSSH's own limit is lower.
const RSA_BITS: u32 = 2048;

const PASSPHRASE: &str = "it has a passphrase, which nobody could type here: store it without one (ssh-keygen -p -N '' -f KEY)";
const OLD: &str =
    "it is in the old PEM format: convert it with ssh-keygen -p -N '' -f KEY, which rewrites the file in OpenSSH's format, and store that";
const PUTTY: &str = "it is in PuTTY's format: convert it with puttygen KEY -O private-openssh -o NEW, and store that";
const PUBLIC: &str = "it is a public key: store the private one";
const NO_KEY: &str =
    "it is not a private key in OpenSSH's format or in PKCS#8 (-----BEGIN OPENSSH PRIVATE KEY----- or -----BEGIN PRIVATE KEY-----)";
const BROKEN: &str = "it is incomplete or damaged: store the file as it is, with all of its lines";
const KIND: &str = "it is of a kind that cannot be used here: store an Ed25519, ECDSA or RSA key";
const TOKEN: &str = "its secret part is in a security token: store an Ed25519, ECDSA or RSA key of its own";
const SHORT: &str = "it is an RSA key of fewer than 2048 bits: make a new one (ssh-keygen -t ed25519)";

/// The key in the text, or why it is none.
pub fn private_key(text: &str) -> Result<PrivateKey, &'static str> {
    let text = text.trim();
    let first = text.lines().next().unwrap_or_default().trim_end();
    let key = match first.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----")) {
        Some(label @ "OPENSSH PRIVATE KEY") => PrivateKey::from_bytes(&body(text, label)?).map_err(|_| BROKEN)?,
        Some(label @ "PRIVATE KEY") => decode_pkcs8(&body(text, label)?, None).map_err(|error| why_not_pkcs8(&error))?,
        Some("ENCRYPTED PRIVATE KEY") => return Err(PASSPHRASE),
        Some("RSA PRIVATE KEY" | "EC PRIVATE KEY" | "DSA PRIVATE KEY") => return Err(OLD),
        Some(label) if label.ends_with("PUBLIC KEY") => return Err(PUBLIC),
        _ if first.starts_with("PuTTY-User-Key-File-") => return Err(PUTTY),
        _ if ["ssh-", "ecdsa-", "sk-"].iter().any(|start| first.starts_with(start)) => return Err(PUBLIC),
        _ => return Err(NO_KEY),
    };
    usable(&key)?;
    Ok(key)
}

fn why_not_pkcs8(error: &russh::keys::Error) -> &'static str {
    if matches!(error, russh::keys::Error::UnknownAlgorithm(_)) { KIND } else { BROKEN }
}

/// What is between the lines, decoded. However it is wrapped: pasting changes that.
fn body(text: &str, label: &str) -> Result<Zeroizing<Vec<u8>>, &'static str> {
    let end = text.find(&format!("-----END {label}-----")).ok_or(BROKEN)?;
    let begin = text.find('\n').filter(|begin| *begin < end).ok_or(BROKEN)?;
    let lines = text.get(begin..end).ok_or(BROKEN)?;
    let mut packed = Zeroizing::new(String::with_capacity(lines.len()));
    packed.extend(lines.chars().filter(|c| !c.is_ascii_whitespace()));
    let mut bytes = Zeroizing::new(vec![0; packed.len()]);
    let length = STANDARD.decode_slice(packed.as_bytes(), &mut bytes).map_err(|_| BROKEN)?;
    bytes.truncate(length);
    Ok(bytes)
}

/// This program can sign with it, as servers of today want it.
fn usable(key: &PrivateKey) -> Result<(), &'static str> {
    match key.key_data() {
        KeypairData::Rsa(pair) if pair.key_size() < RSA_BITS => Err(SHORT),
        KeypairData::Ed25519(_) | KeypairData::Ecdsa(_) | KeypairData::Rsa(_) => Ok(()),
        KeypairData::Encrypted(_) => Err(PASSPHRASE),
        KeypairData::SkEd25519(_) | KeypairData::SkEcdsaSha2NistP256(_) => Err(TOKEN),
        _ => Err(KIND),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::{Path, PathBuf};
    use std::process::{Command, Stdio};

    fn ssh_keygen(arguments: &[&str]) {
        let done = Command::new("ssh-keygen").args(arguments).stdin(Stdio::null()).output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// Makes a key of OpenSSH's; gives its path.
    fn keygen(folder: &Path, name: &str, arguments: &[&str]) -> PathBuf {
        let file = folder.join(name);
        ssh_keygen(&[&["-q", "-C", "", "-f", file.to_str().unwrap()], arguments].concat());
        file
    }

    fn text(file: &Path) -> String {
        std::fs::read_to_string(file).unwrap()
    }

    fn line(file: &Path) -> String {
        text(&file.with_extension("pub")).trim().to_owned()
    }

    #[test]
    fn keys_of_both_formats() {
        let folder = tempfile::tempdir().unwrap();
        for (name, kind) in [
            ("ed25519", &["-t", "ed25519"][..]),
            ("p256", &["-t", "ecdsa", "-b", "256"]),
            ("p384", &["-t", "ecdsa", "-b", "384"]),
            ("p521", &["-t", "ecdsa", "-b", "521"]),
            ("rsa", &["-t", "rsa", "-b", "2048"]),
        ] {
            let file = keygen(folder.path(), name, &[kind, &["-N", ""]].concat());
            let opened = text(&file);
            let crlf = opened.replace('\n', "\r\n");
            let one_line: Vec<&str> = opened.lines().collect();
            let rewrapped = format!("\n{}\n{}\n{}", one_line[0], one_line[1..one_line.len() - 1].concat(), one_line[one_line.len() - 1]);
            let mut texts = vec![opened, crlf, rewrapped];
            if name != "ed25519" {
                let copy = folder.path().join(format!("{name}-pkcs8"));
                std::fs::copy(&file, &copy).unwrap();
                ssh_keygen(&["-q", "-p", "-N", "", "-m", "PKCS8", "-f", copy.to_str().unwrap()]);
                assert!(text(&copy).starts_with("-----BEGIN PRIVATE KEY-----"));
                texts.push(text(&copy));
            }
            for text in texts {
                let key = private_key(&text).unwrap_or_else(|why| panic!("{name}: {why}"));
                assert_eq!(key.public_key().to_openssh().unwrap().trim(), line(&file), "{name}");
            }
        }
    }

    /// 32 bytes behind the head of their kind (RFC 8410 section 7), as openssl writes it.
    fn pkcs8(head: &str) -> String {
        let mut der: Vec<u8> = (0..head.len()).step_by(2).map(|at| u8::from_str_radix(&head[at..at + 2], 16).unwrap()).collect();
        der.extend([7; 32]);
        format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der))
    }

    #[test]
    fn ed25519_in_pkcs8_which_openssh_does_not_write() {
        let with_public = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().serialize_pem();
        for text in [pkcs8("302e020100300506032b657004220420"), with_public] {
            let key = private_key(&text).unwrap();
            assert!(key.algorithm().is_ed25519());
            let again = PrivateKey::from_bytes(&key.to_bytes().unwrap()).unwrap();
            assert_eq!(again.public_key(), key.public_key());
        }
    }

    #[test]
    fn passphrases_and_old_formats_name_their_cure() {
        let folder = tempfile::tempdir().unwrap();
        let closed = keygen(folder.path(), "closed", &["-t", "ed25519", "-N", "swordfish"]);
        assert_eq!(private_key(&text(&closed)), Err(PASSPHRASE));
        let closed = keygen(folder.path(), "closed8", &["-t", "ecdsa", "-N", "swordfish", "-m", "PKCS8"]);
        assert_eq!(private_key(&text(&closed)), Err(PASSPHRASE));
        let old = keygen(folder.path(), "old", &["-t", "rsa", "-b", "2048", "-N", "", "-m", "PEM"]);
        assert!(text(&old).starts_with("-----BEGIN RSA PRIVATE KEY-----"));
        assert_eq!(private_key(&text(&old)), Err(OLD));
        ssh_keygen(&["-q", "-p", "-N", "", "-f", old.to_str().unwrap()]);
        assert_eq!(private_key(&text(&old)).unwrap().public_key().to_openssh().unwrap().trim(), line(&old), "the cure works");
        let old = keygen(folder.path(), "oldec", &["-t", "ecdsa", "-N", "", "-m", "PEM"]);
        assert_eq!(private_key(&text(&old)), Err(OLD));
        ssh_keygen(&["-q", "-p", "-N", "", "-f", old.to_str().unwrap()]);
        private_key(&text(&old)).unwrap();
    }

    #[test]
    fn what_is_no_key_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let file = keygen(folder.path(), "key", &["-t", "ed25519", "-N", ""]);
        let whole = text(&file);
        assert_eq!(private_key(&text(&file.with_extension("pub"))), Err(PUBLIC));
        for cut in [40, 100, 200, whole.len() - 20] {
            assert_eq!(private_key(&whole[..cut]), Err(BROKEN), "{cut}");
        }
        assert_eq!(private_key(&whole.replace("QyNTUx", "QyNTU*")), Err(BROKEN));
        for (text, why) in [
            ("", NO_KEY),
            ("swordfish", NO_KEY),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", NO_KEY),
            ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", PUBLIC),
            ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", BROKEN),
            ("-----BEGIN PRIVATE KEY-----", BROKEN),
            ("-----BEGIN OPENSSH PRIVATE KEY----------END OPENSSH PRIVATE KEY-----", NO_KEY),
            ("-----BEGIN OPENSSH PRIVATE KEY-----\n-----END OPENSSH PRIVATE KEY-----", BROKEN),
            ("PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none", PUTTY),
        ] {
            assert_eq!(private_key(text), Err(why), "{text}");
        }
        assert_eq!(private_key(&pkcs8("302e020100300506032b656e04220420")), Err(KIND), "X25519");
        let short = keygen(folder.path(), "short", &["-t", "rsa", "-b", "1024", "-N", ""]);
        assert_eq!(private_key(&text(&short)), Err(SHORT));
    }
}
