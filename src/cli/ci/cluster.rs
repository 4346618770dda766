//! The door inside the cluster: makes the object as the account of the pod this runs in.

use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::{Value, json};

use super::order::{Order, RUN};
use super::report::Report;
use crate::api::DebugSession;
use crate::kubernetes::{CallError, ClientError, call, connect};

/// Why the API server made none.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// No way to the API server.
    #[error(transparent)]
    Connect(ClientError),
    /// It refuses, or does not answer. Its own words say why.
    #[error(transparent)]
    Call(CallError),
    /// The same name for something else.
    #[error("there is a DebugSession {0} that was not made for this run: give --run another value")]
    Taken(String),
    /// The object cannot be written down.
    #[error("failed to make a DebugSession of the flags")]
    Shape(#[source] serde_json::Error),
}

/// The namespace.
pub(super) struct Cluster {
    client: Client,
    sessions: Api<DebugSession>,
}

impl Cluster {
    pub(super) async fn connect(namespace: Option<&str>) -> Result<Self, ClusterError> {
        let client = connect().await.map_err(ClusterError::Connect)?;
        let namespace = namespace.filter(|name| !name.is_empty()).unwrap_or(client.default_namespace()).to_owned();
        Ok(Self { sessions: Api::namespaced(client.clone(), &namespace), client })
    }

    /// Makes the session, or finds the one that was made for this run before.
    pub(super) async fn make(&self, order: &Order) -> Result<Report, ClusterError> {
        let mut spec = order.spec.clone();
        if spec.get("requester").is_none()
            && let Value::Object(fields) = &mut spec
        {
            fields.insert("requester".into(), json!(self.own_name().await?));
        }
        let object = json!({
            "apiVersion": "sandglass.dev/v1alpha1", "kind": "DebugSession",
            "metadata": { "name": order.name, "annotations": { RUN: order.origin } }, "spec": spec,
        });
        let object: DebugSession = serde_json::from_value(object).map_err(ClusterError::Shape)?;
        match call("create the DebugSession", self.sessions.create(&PostParams::default(), &object)).await {
            Ok(session) => Ok(Report::from(&session)),
            Err(error) if error.code() == 409 => self.made_before(order).await,
            Err(error) => Err(ClusterError::Call(error)),
        }
    }

    async fn made_before(&self, order: &Order) -> Result<Report, ClusterError> {
        let session = self.read(&order.name).await?;
        let origin = session.metadata.annotations.as_ref().and_then(|annotations| annotations.get(RUN));
        if origin != Some(&order.origin) {
            return Err(ClusterError::Taken(order.name.clone()));
        }
        Ok(Report::from(&session))
    }

    pub(super) async fn look(&self, name: &str) -> Result<Report, ClusterError> {
        Ok(Report::from(&self.read(name).await?))
    }

    async fn read(&self, name: &str) -> Result<DebugSession, ClusterError> {
        call("read the DebugSession", self.sessions.get(name)).await.map_err(ClusterError::Call)
    }

    /// Who the API server says this is: everybody may ask that.
    async fn own_name(&self) -> Result<String, ClusterError> {
        let reviews: Api<SelfSubjectReview> = Api::all(self.client.clone());
        let review = call("ask who this account is", reviews.create(&PostParams::default(), &SelfSubjectReview::default())).await;
        let user = review.map_err(ClusterError::Call)?.status.and_then(|status| status.user_info);
        Ok(user.and_then(|user| user.username).unwrap_or_default())
    }
}
