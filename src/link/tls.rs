//! The link's certificates: a CA made at installation, and a leaf that every gateway makes for itself at its start.

use super::SERVER_NAME;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

/// Why certificates could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// From the certificate library.
    #[error("failed to {action}: {source}")]
    Certificate {
        /// What was attempted.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: rcgen::Error,
    },
    /// From the TLS library.
    #[error("failed to configure TLS: {0}")]
    Configure(#[source] rustls::Error),
}

fn failed(action: &'static str) -> impl Fn(rcgen::Error) -> TlsError {
    move |source| TlsError::Certificate { action, source }
}

/// A new link CA.
///
/// # Errors
/// When there is no randomness.
pub fn new_authority() -> Result<(String, crate::domain::secret::Secret<String>), TlsError> {
    let key = KeyPair::generate().map_err(failed("make the link CA's key"))?;
    let mut parameters = CertificateParams::default();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    parameters.distinguished_name.push(DnType::CommonName, "sandglass link CA");
    parameters.not_before = rcgen::date_time_ymd(2020, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(2100, 1, 1);
    let certificate = parameters.self_signed(&key).map_err(failed("make the link CA's certificate"))?;
    Ok((certificate.pem(), crate::domain::secret::Secret::new(key.serialize_pem())))
}

/// An acceptor with a fresh leaf for [`SERVER_NAME`], signed by the CA.
///
/// # Errors
/// When the CA's certificate and key do not parse.
pub fn acceptor(certificate_pem: &str, key_pem: &str) -> Result<TlsAcceptor, TlsError> {
    let authority_key = KeyPair::from_pem(key_pem).map_err(failed("read the link CA's key"))?;
    let issuer = Issuer::from_ca_cert_pem(certificate_pem, authority_key).map_err(failed("read the link CA's certificate"))?;
    let key = KeyPair::generate().map_err(failed("make the link's key"))?;
    let mut parameters = CertificateParams::new(vec![SERVER_NAME.to_owned()]).map_err(failed("make the link's certificate"))?;
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    parameters.not_before = rcgen::date_time_ymd(2020, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(2100, 1, 1);
    let certificate = parameters.signed_by(&key, &issuer).map_err(failed("sign the link's certificate"))?;
    let chain = vec![CertificateDer::from(certificate.der().to_vec())];
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let configuration = rustls::ServerConfig::builder_with_provider(super::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Configure)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(TlsError::Configure)?;
    Ok(TlsAcceptor::from(Arc::new(configuration)))
}
