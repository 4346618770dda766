//! Asking the API server whose token this is.

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::{Api, Client};

use super::call::{CallError, call};

/// Where the API server keeps the pod of a bound token (`BoundServiceAccountTokenVolume`).
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// The pod a token was issued to, if the API server vouches for it and for the audience. `None` for every other token.
///
/// # Errors
/// When the API server could not be asked. Nothing of the token is in the error.
pub async fn pod_of_token(client: &Client, audience: &str, token: &str) -> Result<Option<String>, CallError> {
    let review = TokenReview {
        spec: TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(vec![audience.to_owned()]) },
        ..TokenReview::default()
    };
    let reviews: Api<TokenReview> = Api::all(client.clone());
    let answer = call("review a token", reviews.create(&kube::api::PostParams::default(), &review)).await?;
    Ok(answer.status.and_then(|status| {
        let vouched =
            status.authenticated == Some(true) && status.audiences.is_some_and(|granted| granted.iter().any(|one| one == audience));
        if !vouched {
            return None;
        }
        status.user?.extra?.remove(POD_UID)?.into_iter().next()
    }))
}
