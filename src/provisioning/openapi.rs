//! The document of the interface (`OpenAPI` 3.1), made from the types that are read and written.

use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use super::answer::Answer;
use super::problem::{Document, Kind};
use super::request::SessionRequest;
use super::service::{DOCUMENT, SESSIONS};

/// The whole document.
#[must_use]
pub fn document() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    let mut generator = settings.into_generator();
    let request = generator.subschema_for::<SessionRequest>();
    let answer = generator.subschema_for::<Answer>();
    let problem = generator.subschema_for::<Document<'static>>();
    let session = |text: &str| json!({ "description": text, "content": { "application/json": { "schema": answer } } });
    let refusals = |kinds: &[Kind]| refusals(kinds, &problem.clone().to_value());
    let common = [Kind::TokenMissing, Kind::TokenInvalid, Kind::NoRule, Kind::ClaimMissing, Kind::RepositoryLimited, Kind::AddressLimited];
    let away = [Kind::IssuerUnavailable, Kind::ClusterUnavailable];
    let of_post = [Kind::NotAllowed, Kind::TooSlow, Kind::NameTaken, Kind::TooLarge, Kind::NotJson, Kind::InvalidRequest];
    let mut post = refusals(&[&common[..], &of_post, &away].concat());
    post.insert("201".into(), session("The session was made."));
    post.insert("200".into(), session("The session of this job was there already."));
    let mut get = refusals(&[&common[..], &[Kind::NotFound, Kind::TooSlow], &away].concat());
    get.insert("200".into(), session("The session."));
    let label = |most: usize| json!({ "type": "string", "minLength": 1, "maxLength": most, "pattern": "^[a-z0-9-]+$" });
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Sandglass: sessions for CI",
            "version": "1",
            "description": "A job of a CI system shows its OIDC token and gets a debugging session on the image of its build.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "security": [{ "token": [] }],
        "paths": {
            SESSIONS: { "post": {
                "operationId": "createDebugSession",
                "summary": "Asks for a session. The same job of the same attempt of a run that asks again gets the same one.",
                "requestBody": { "required": true, "content": { "application/json": { "schema": request } } },
                "responses": post,
            } },
            format!("{SESSIONS}/{{namespace}}/{{name}}"): { "get": {
                "operationId": "readDebugSession",
                "summary": "Tells of a session of the same repository.",
                "parameters": [
                    { "name": "namespace", "in": "path", "required": true, "schema": label(63) },
                    { "name": "name", "in": "path", "required": true, "schema": label(63) },
                ],
                "responses": get,
            } },
            DOCUMENT: { "get": {
                "operationId": "readDocument",
                "summary": "This document.",
                "security": [],
                "responses": { "200": { "description": "This document.", "content": { "application/json": { "schema": { "type": "object" } } } } },
            } },
        },
        "components": {
            "schemas": generator.take_definitions(true),
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" } },
        },
    })
}

/// One response for each status, which says which kinds it stands for.
fn refusals(kinds: &[Kind], problem: &Value) -> serde_json::Map<String, Value> {
    let mut responses = serde_json::Map::new();
    for kind in kinds {
        let status = kind.status();
        let same: Vec<_> =
            kinds.iter().filter(|other| other.status() == status).map(|other| format!("{}: {}", other.slug(), other.title())).collect();
        let mut response = json!({ "description": same.join("; "), "content": { "application/problem+json": { "schema": problem } } });
        let header = match status {
            429 => Some(("Retry-After", true, json!({ "type": "integer", "minimum": 1 }))),
            503 => Some(("Retry-After", false, json!({ "type": "integer", "minimum": 1 }))),
            401 => Some(("WWW-Authenticate", true, json!({ "type": "string" }))),
            _ => None,
        };
        if let (Some((name, required, schema)), Some(response)) = (header, response.as_object_mut()) {
            response.insert("headers".into(), json!({ name: { "required": required, "schema": schema } }));
        }
        responses.insert(status.to_string(), response);
    }
    responses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_leads_somewhere_and_every_kind_is_documented() {
        let document = document();
        let text = document.to_string();
        for reference in text.split("\"$ref\":\"#").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(document.pointer(reference).is_some(), "{reference}");
        }
        let post = &document["paths"]["/v1/debugsessions"]["post"]["responses"];
        for kind in Kind::ALL.iter().filter(|kind| !matches!(kind, Kind::NotFound | Kind::MethodNotAllowed)) {
            let response = &post[kind.status().to_string()];
            assert!(response["description"].as_str().expect("a text").contains(kind.slug()), "{kind:?}");
        }
        assert_eq!(document["components"]["schemas"]["DebugSessionRequest"]["additionalProperties"], false);
        assert_eq!(document["components"]["schemas"]["DebugSessionRequest"]["required"], json!(["image", "job"]));
    }
}
