//! The server, as far as this library asks it for anything.

use std::sync::{Arc, Mutex, PoisonError};

use futures::stream::BoxStream;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::Error;
use crate::config::Config;
use crate::transport::{Request, Response, Watched};
use crate::wire::{Failure, Source};

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
    known: Arc<Mutex<Option<Identity>>>,
}

/// Who the server takes this device for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) user: String,
    pub(crate) source: String,
}

impl Remote {
    pub(crate) fn new(config: Config, known: Option<Identity>) -> Self {
        Self { config, token: Arc::default(), known: Arc::new(Mutex::new(known)) }
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: String) -> Result<Answer<T>, Error> {
        self.ask(Request { method: "GET", path, token: String::new(), body: None }).await
    }

    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str, body: String) -> Result<Answer<T>, Error> {
        let path = path.to_owned();
        self.ask(Request { method: "POST", path, token: String::new(), body: Some(body) }).await
    }

    /// Lines of the stream of events; none if the server has none to offer.
    pub(crate) async fn watch(&self, path: String) -> Result<Option<BoxStream<'static, String>>, Error> {
        for fresh in [false, true] {
            let Some(token) = self.token(fresh).await? else { continue };
            let request = Request { method: "GET", path: path.clone(), token, body: None };
            match self.config.transport.watch(request).await? {
                Watched::Lines(lines) => return Ok(Some(lines)),
                Watched::Refused(answer) if answer.status == 401 && !fresh => {}
                Watched::Refused(answer) => {
                    return match read::<IgnoredAny>(&answer)? {
                        // Another cursor will do, after the next sync.
                        Answer::Reset => Err(Error::Offline { why: "not from there".into(), retry_after: None }),
                        _ => Ok(None),
                    };
                }
            }
        }
        Ok(None)
    }

    /// Makes sure that there is a token, and that it is this user's.
    pub(crate) async fn sign_in(&self) -> Result<(), Error> {
        if self.token(false).await?.is_none() {
            self.token(true).await?;
        }
        Ok(())
    }

    /// Who the server takes this device for, as far as that is known.
    pub(crate) fn identity(&self) -> Option<Identity> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks, and once more with a new token if the known one has ended.
    async fn ask<T: DeserializeOwned>(&self, mut request: Request) -> Result<Answer<T>, Error> {
        for fresh in [false, true] {
            let Some(token) = self.token(fresh).await? else { continue };
            request.token = token;
            let answer = self.config.transport.send(request.clone()).await?;
            if fresh || answer.status != 401 {
                return read(&answer);
            }
        }
        Err(Error::Unauthorized("neither of two tokens".into()))
    }

    /// The token that is known, or a new one; none if that is not accepted and another may be.
    async fn token(&self, fresh: bool) -> Result<Option<String>, Error> {
        if !fresh && let Some(token) = self.token.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            return Ok(Some(token));
        }
        let token = (self.config.tokens)().await.map_err(|error| Error::Token(error.to_string()))?;
        match self.introduce(&token).await {
            Err(Error::Unauthorized(_)) if !fresh => return Ok(None),
            done => done?,
        }
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = Some(token.clone());
        Ok(Some(token))
    }

    /// Before anything else is done with a token: whose is it? Another user's would mix the data of two.
    async fn introduce(&self, token: &str) -> Result<(), Error> {
        let request = Request { method: "GET", path: "/sync/source".into(), token: token.to_owned(), body: None };
        let Answer::Good(Source { user: Some(user), source_id: Some(source), .. }) =
            read(&self.config.transport.send(request).await?)?
        else {
            // An older server does not tell.
            return Ok(());
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some(known) if known.user != user => Err(Error::OtherUser { was: known.user.clone(), is: user }),
            _ => {
                *known = Some(Identity { user, source });
                Ok(())
            }
        }
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
        408 | 429 | 500..=599 => Err(Error::Offline { why: said(failure()), retry_after: answer.retry_after }),
        _ => Err(Error::Protocol(said(failure()))),
    }
}
