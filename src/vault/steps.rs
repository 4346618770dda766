//! The calls in their order: log in, ask what the role may do, read or have signed, revoke. Each says what a refusal means there.

use super::refusal::Refusal;
use super::scope::{Scope, path_of};
use super::session::Session;
use super::{Given, Vault, VaultError, Want, answer};
use rustify::endpoint::Endpoint;
use rustify::enums::{RequestMethod, RequestType, ResponseType};
use rustify::errors::ClientError;
use std::time::Duration;
use vaultrs::api::auth::kubernetes::requests::LoginWithKubernetesRequest;
use vaultrs::api::kv2::requests::ReadSecretRequest;
use vaultrs::api::ssh::requests::SignSSHKeyRequest;
use vaultrs::api::token::requests::RevokeTokenSelfRequest;
use zeroize::Zeroizing;

/// Pauses before the tries to revoke.
const REVOKE_PAUSES: [Duration; 3] = [Duration::ZERO, Duration::from_millis(250), Duration::from_secs(1)];

/// Logs in with the projected token; from here on the session has a token that must be revoked.
/// The result is the kind of the token.
pub(super) async fn log_in(session: &mut Session, vault: &Vault, token: &Zeroizing<String>) -> Result<String, VaultError> {
    let endpoint = LoginWithKubernetesRequest { mount: vault.auth_mount.clone(), role: vault.role.clone(), jwt: token.as_str().to_owned() };
    let body = session.call(endpoint).await.map_err(|refusal| login_refused(&refusal, session, vault))?;
    let login = answer::login(&body)?;
    session.set_token(login.token);
    Ok(login.kind)
}

fn login_refused(refusal: &Refusal, session: &Session, vault: &Vault) -> VaultError {
    let doing = "log in to Vault";
    if let Some(error) = refusal.common(&session.address, doing) {
        return error;
    }
    let Refusal::Status { code, text, .. } = refusal else { return refusal.other(doing) };
    let (mount, role, text) = (vault.auth_mount.clone(), vault.role.clone(), text.clone());
    match code {
        400 if text.contains("invalid role name") => VaultError::RoleUnknown { mount, role, text },
        404 => VaultError::RoleUnknown { mount, role, text },
        400 | 403 if text.contains("audience") => VaultError::AudienceWrong { mount, role, text },
        403 if text.contains("not authorized") => {
            let cure = format!(
                "bind the pod's service account and namespace in bound_service_account_names and bound_service_account_namespaces of auth/{mount}/role/{role}"
            );
            VaultError::LoginDenied { role, text, cure }
        }
        403 => {
            let cure = format!(
                "check that the pod still exists, that auth/{mount} is mounted and configured for this cluster, and that its reviewer may create TokenReviews"
            );
            VaultError::LoginDenied { role, text, cure }
        }
        _ => refusal.other(doing),
    }
}

/// Asks once about every path and judges the answer.
pub(super) async fn check_scope(session: &Session, scope: &Scope, least: usize) -> Result<(), VaultError> {
    let doing = "learn what the Vault role may do";
    let paths: Vec<&str> = scope.paths().collect();
    let body = session.call(CapabilitiesSelf { body: serde_json::json!({ "paths": paths }).to_string() }).await.map_err(|refusal| {
        if refusal.is_token_gone() {
            return VaultError::TokenEnded { doing: "the role was checked".to_owned(), least };
        }
        refusal.common(&session.address, doing).unwrap_or_else(|| match refusal {
            Refusal::Status { code: 403, .. } => VaultError::NoSelfService,
            _ => refusal.other(doing),
        })
    })?;
    scope.judge(&answer::capabilities(&body)?)
}

/// Reads a key or has one signed.
pub(super) async fn obtain(session: &Session, want: &Want, least: usize) -> Result<Given, VaultError> {
    let path = path_of(want);
    let refused = |refusal: Refusal| want_refused(&refusal, session, want, &path, least);
    match want {
        Want::Kv { mount, path: key, field } => {
            let endpoint = ReadSecretRequest { mount: mount.clone(), path: key.clone(), version: None };
            let body = session.call(endpoint).await.map_err(refused)?;
            answer::secret(&body, &path, field).map(Given::Key)
        }
        Want::Sign { mount, role, public_key, principal } => {
            let endpoint = SignSSHKeyRequest {
                mount: mount.clone(),
                name: role.clone(),
                cert_type: Some("user".to_owned()),
                public_key: public_key.trim().to_owned(),
                valid_principals: Some(principal.clone()),
                ..SignSSHKeyRequest::default()
            };
            let body = session.call(endpoint).await.map_err(refused)?;
            answer::certificate(&body, &path).map(Given::Certificate)
        }
    }
}

fn want_refused(refusal: &Refusal, session: &Session, want: &Want, path: &str, least: usize) -> VaultError {
    let (doing, path) = (format!("read {path}"), path.to_owned());
    if refusal.is_token_gone() {
        return VaultError::TokenEnded { doing: format!("{path} was read"), least };
    }
    if let Some(error) = refusal.common(&session.address, &doing) {
        return error;
    }
    let Refusal::Status { code, text, deleted } = refusal else { return refusal.other(&doing) };
    match (code, want) {
        (404, _) if *deleted => {
            VaultError::KeyMissing { path, why: "the latest version is deleted: write the key again, or undelete it".to_owned() }
        }
        (404, _) if text.is_empty() => {
            VaultError::KeyMissing { path, why: "nothing is stored there: write the key, or name the right path".to_owned() }
        }
        (404, _) => VaultError::KeyMissing { path, why: text.clone() },
        (403, _) => VaultError::Denied { path, text: text.clone() },
        (400, Want::Sign { principal, .. }) if text.contains("valid_principals") || text.contains("principal") => {
            VaultError::PrincipalRefused { path, principal: principal.clone(), text: text.clone() }
        }
        (400, Want::Sign { .. }) if text.to_lowercase().contains("unknown role") => {
            VaultError::KeyMissing { path, why: format!("{text}: write the SSH role, or name the right one") }
        }
        (400, Want::Sign { .. }) => VaultError::KeyUnusable { path, why: text.clone() },
        _ => refusal.other(&doing),
    }
}

/// Ends the token. A token that is no more is as good; only what may pass is tried again, since each try costs a use.
pub(super) async fn revoke(session: &Session) -> Result<(), VaultError> {
    let doing = "revoke Vault's token";
    let mut last = VaultError::Failed { doing: doing.to_owned(), why: "it was not tried".to_owned(), transient: true };
    for pause in REVOKE_PAUSES {
        tokio::time::sleep(pause).await;
        let refusal = match session.call(RevokeTokenSelfRequest {}).await {
            Ok(_) => return Ok(()),
            Err(refusal) if refusal.is_token_gone() => return Ok(()),
            Err(refusal) => refusal,
        };
        last = match (refusal.common(&session.address, doing), &refusal) {
            (Some(error), _) if error.is_transient() => error,
            (Some(error), _) => return Err(error),
            (None, Refusal::Status { code: 403, .. }) => {
                return Err(VaultError::TooNarrow { path: "auth/token/revoke-self".to_owned(), needs: "update" });
            }
            (None, _) => return Err(refusal.other(doing)),
        };
    }
    Err(last)
}

/// `POST sys/capabilities-self`, which vaultrs does not have.
struct CapabilitiesSelf {
    body: String,
}

impl Endpoint for CapabilitiesSelf {
    type Response = ();
    const REQUEST_BODY_TYPE: RequestType = RequestType::JSON;
    const RESPONSE_BODY_TYPE: ResponseType = ResponseType::JSON;

    fn path(&self) -> String {
        "sys/capabilities-self".to_owned()
    }

    fn method(&self) -> RequestMethod {
        RequestMethod::POST
    }

    fn body(&self) -> Result<Option<Vec<u8>>, ClientError> {
        Ok(Some(self.body.as_bytes().to_vec()))
    }
}
