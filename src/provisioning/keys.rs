//! Keys of an issuer: a JSON Web Key Set (RFC 7517, 7518, 8037), and signatures checked with them. Only public keys, only for
//! signatures: what the set holds besides is passed over.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm};
use serde::Deserialize;

use crate::domain::provisioning::Algorithm;

/// Keys of one set that are looked at.
const MOST_KEYS: usize = 100;

#[derive(Deserialize)]
struct JsonSet {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct JsonKey {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    n: Option<String>,
    e: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

/// What a key is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Material {
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
    /// Uncompressed point (SEC 1, 2.3.3).
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// One public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    name: String,
    algorithm: Option<String>,
    material: Material,
}

/// The keys of an issuer that can be used.
#[derive(Clone, Debug, Default)]
pub struct KeySet(Vec<Key>);

impl KeySet {
    /// Reads a set. Keys of other kinds or for other purposes are passed over.
    ///
    /// # Errors
    /// It is no set, or holds no key that can be used.
    pub fn parse(document: &[u8]) -> Result<Self, &'static str> {
        let set: JsonSet = serde_json::from_slice(document).map_err(|_| "it is no JSON Web Key Set")?;
        let read = |key: serde_json::Value| serde_json::from_value(key).ok().and_then(usable);
        let keys: Vec<Key> = set.keys.into_iter().take(MOST_KEYS).filter_map(read).collect();
        if keys.is_empty() { Err("it holds no key that can check a signature") } else { Ok(Self(keys)) }
    }

    /// Whether there is a key of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|key| key.name == name)
    }

    /// Whether a key of this name made the signature, by this algorithm.
    #[must_use]
    pub fn verifies(&self, name: &str, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        self.0.iter().filter(|key| key.name == name).any(|key| key.verifies(algorithm, message, signature))
    }
}

fn bytes(text: Option<String>) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text?).ok()
}

fn usable(key: JsonKey) -> Option<Key> {
    let for_signatures = key.purpose.as_deref().is_none_or(|purpose| purpose == "sig");
    let for_checking = key.key_ops.as_ref().is_none_or(|operations| operations.iter().any(|operation| operation == "verify"));
    if !for_signatures || !for_checking {
        return None;
    }
    let point = |size: usize, x: Vec<u8>, y: Vec<u8>| (x.len() == size && y.len() == size).then(|| [vec![4], x, y].concat());
    let material = match (key.kty.as_str(), key.crv.as_deref()) {
        ("RSA", _) => {
            let (modulus, exponent) = (bytes(key.n)?, bytes(key.e)?);
            let modulus: Vec<u8> = modulus.into_iter().skip_while(|byte| *byte == 0).collect();
            // 2048 to 8192 bits: what the library checks signatures with.
            (256..=1024).contains(&modulus.len()).then_some(Material::Rsa { modulus, exponent })?
        }
        ("EC", Some("P-256")) => Material::P256(point(32, bytes(key.x)?, bytes(key.y)?)?),
        ("EC", Some("P-384")) => Material::P384(point(48, bytes(key.x)?, bytes(key.y)?)?),
        ("OKP", Some("Ed25519")) => Material::Ed25519(bytes(key.x).filter(|key| key.len() == 32)?),
        _ => return None,
    };
    Some(Key { name: key.kid?, algorithm: key.alg, material })
}

impl Key {
    fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        if self.algorithm.as_deref().is_some_and(|own| own != algorithm.as_str()) {
            return false;
        }
        let rsa = |parameters: &RsaParameters, modulus: &[u8], exponent: &[u8]| {
            RsaPublicKeyComponents { n: modulus, e: exponent }.verify(parameters, message, signature).is_ok()
        };
        let other = |by: &'static dyn VerificationAlgorithm, key: &[u8]| UnparsedPublicKey::new(by, key).verify(message, signature).is_ok();
        match (algorithm, &self.material) {
            (Algorithm::RS256, Material::Rsa { modulus, exponent }) => rsa(&signature::RSA_PKCS1_2048_8192_SHA256, modulus, exponent),
            (Algorithm::RS384, Material::Rsa { modulus, exponent }) => rsa(&signature::RSA_PKCS1_2048_8192_SHA384, modulus, exponent),
            (Algorithm::RS512, Material::Rsa { modulus, exponent }) => rsa(&signature::RSA_PKCS1_2048_8192_SHA512, modulus, exponent),
            (Algorithm::PS256, Material::Rsa { modulus, exponent }) => rsa(&signature::RSA_PSS_2048_8192_SHA256, modulus, exponent),
            (Algorithm::ES256, Material::P256(key)) => other(&signature::ECDSA_P256_SHA256_FIXED, key),
            (Algorithm::ES384, Material::P384(key)) => other(&signature::ECDSA_P384_SHA384_FIXED, key),
            (Algorithm::EdDSA, Material::Ed25519(key)) => other(&signature::ED25519, key),
            _ => false,
        }
    }
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
