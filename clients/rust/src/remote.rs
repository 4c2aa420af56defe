//! The server, as far as this library asks it for anything.

use std::sync::{Arc, Mutex, PoisonError};

use futures::stream::BoxStream;
use serde::de::DeserializeOwned;

use crate::Error;
use crate::config::Config;
use crate::transport::{Request, Response};
use crate::wire::Failure;

/// What the server answered.
pub(crate) enum Answer<T> {
    Good(T),
    /// There is no such thing on this server: it is an older one.
    Unknown,
    /// The device has to start again from the rows as they are.
    Reset,
    /// The body was too large.
    TooLarge,
}

/// Asks the server, with a token that is good. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Remote {
    config: Config,
    token: Arc<Mutex<Option<String>>>,
}

impl Remote {
    pub(crate) fn new(config: Config) -> Self {
        Self { config, token: Arc::default() }
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: String) -> Result<Answer<T>, Error> {
        self.ask("GET", path, None).await
    }

    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str, body: String) -> Result<Answer<T>, Error> {
        self.ask("POST", path.to_owned(), Some(body)).await
    }

    /// Events of changes, as text; none if the server has none to offer.
    pub(crate) async fn watch(&self, path: String) -> Result<BoxStream<'static, String>, Error> {
        let token = self.token(false).await?;
        Ok(self.config.transport.watch(Request { method: "GET", path, token, body: None }).await?)
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: &'static str,
        path: String,
        body: Option<String>,
    ) -> Result<Answer<T>, Error> {
        let token = self.token(false).await?;
        let request = Request { method, path, token, body };
        let mut answer = self.config.transport.send(request.clone()).await?;
        if answer.status == 401 {
            // It has ended, perhaps: once more with a new one.
            let token = self.token(true).await?;
            answer = self.config.transport.send(Request { token, ..request }).await?;
        }
        read(&answer)
    }

    async fn token(&self, fresh: bool) -> Result<String, Error> {
        if !fresh && let Some(token) = self.known_token() {
            return Ok(token);
        }
        let token = (self.config.tokens)().await.map_err(|error| Error::Token(error.to_string()))?;
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = Some(token.clone());
        Ok(token)
    }

    fn known_token(&self) -> Option<String> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn read<T: DeserializeOwned>(answer: &Response) -> Result<Answer<T>, Error> {
    let failure = || {
        let failure: Option<Failure> = serde_json::from_str(&answer.body).ok();
        failure.unwrap_or(Failure { error: format!("status {}", answer.status), message: String::new() })
    };
    let said = |failure: Failure| format!("{}: {}", failure.error, failure.message);
    match answer.status {
        200 => serde_json::from_str(&answer.body).map(Answer::Good).map_err(|error| Error::Protocol(error.to_string())),
        401 | 403 => Err(Error::Unauthorized(failure().message)),
        404 | 405 => Ok(Answer::Unknown),
        409 | 410 if matches!(&*failure().error, "history_pruned" | "cursor_ahead" | "epoch_changed") => {
            Ok(Answer::Reset)
        }
        413 => Ok(Answer::TooLarge),
        429 | 500..=599 => Err(Error::Offline(said(failure()))),
        _ => Err(Error::Protocol(said(failure()))),
    }
}
