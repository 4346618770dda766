//! Keys of a test's issuer, and tokens signed with them.
#![allow(dead_code)] // each test uses some

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair, RsaPublicKeyComponents};
use rsa::pkcs8::EncodePrivateKey as _;
use serde_json::{Value, json};

/// A key pair.
pub enum Signer {
    /// RSA, 2048 bits.
    Rsa(Box<RsaKeyPair>),
    /// P-256.
    P256(EcdsaKeyPair),
    /// P-384.
    P384(EcdsaKeyPair),
    /// Ed25519.
    Ed25519(Ed25519KeyPair),
}

/// Base64url.
pub fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Signer {
    /// A fresh RSA key.
    pub fn rsa() -> Self {
        let key = rsa::RsaPrivateKey::new(&mut russh::keys::key::safe_rng(), 2048).expect("a key");
        let document = key.to_pkcs8_der().expect("encodes");
        Self::Rsa(Box::new(RsaKeyPair::from_pkcs8(document.as_bytes()).expect("reads")))
    }

    /// A fresh key on P-256.
    pub fn p256() -> Self {
        let (by, random) = (&signature::ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let document = EcdsaKeyPair::generate_pkcs8(by, &random).expect("a key");
        Self::P256(EcdsaKeyPair::from_pkcs8(by, document.as_ref(), &random).expect("reads"))
    }

    /// A fresh key on P-384.
    pub fn p384() -> Self {
        let (by, random) = (&signature::ECDSA_P384_SHA384_FIXED_SIGNING, SystemRandom::new());
        let document = EcdsaKeyPair::generate_pkcs8(by, &random).expect("a key");
        Self::P384(EcdsaKeyPair::from_pkcs8(by, document.as_ref(), &random).expect("reads"))
    }

    /// A fresh Ed25519 key.
    pub fn ed25519() -> Self {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
        Self::Ed25519(Ed25519KeyPair::from_pkcs8(document.as_ref()).expect("reads"))
    }

    /// The public half as a JSON Web Key.
    pub fn jwk(&self, name: &str) -> Value {
        let point = |key: &EcdsaKeyPair, curve: &str, size: usize| {
            let point = &key.public_key().as_ref()[1..];
            json!({ "kty": "EC", "crv": curve, "x": encode(&point[..size]), "y": encode(&point[size..]) })
        };
        let mut key = match self {
            Self::Rsa(key) => {
                let public = RsaPublicKeyComponents::<Vec<u8>>::from(key.public());
                json!({ "kty": "RSA", "n": encode(&public.n), "e": encode(&public.e) })
            }
            Self::P256(key) => point(key, "P-256", 32),
            Self::P384(key) => point(key, "P-384", 48),
            Self::Ed25519(key) => json!({ "kty": "OKP", "crv": "Ed25519", "x": encode(key.public_key().as_ref()) }),
        };
        key["kid"] = name.into();
        key["use"] = "sig".into();
        key
    }

    /// A signature.
    pub fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(key) => {
                let padding: &dyn signature::RsaEncoding = match algorithm {
                    "RS384" => &signature::RSA_PKCS1_SHA384,
                    "RS512" => &signature::RSA_PKCS1_SHA512,
                    "PS256" => &signature::RSA_PSS_SHA256,
                    _ => &signature::RSA_PKCS1_SHA256,
                };
                let mut made = vec![0; key.public().modulus_len()];
                key.sign(padding, &random, message, &mut made).expect("signs");
                made
            }
            Self::P256(key) | Self::P384(key) => key.sign(&random, message).expect("signs").as_ref().to_vec(),
            Self::Ed25519(key) => key.sign(message).as_ref().to_vec(),
        }
    }

    /// A token with this header.
    pub fn token(&self, header: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        let made = self.sign(header["alg"].as_str().unwrap_or_default(), signed.as_bytes());
        format!("{signed}.{}", encode(made))
    }
}
