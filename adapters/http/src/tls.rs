//! TLS: the server's certificate and key, from files that are read again when somebody says so.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};

/// The name of HTTP/2 in a TLS handshake ([RFC 9113, 3.2](https://www.rfc-editor.org/rfc/rfc9113#section-3.2)).
pub(crate) const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// Why a certificate or key cannot be used. Each message is one sentence for an operator, without what is in the files.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is not there, or not as it has to be.
    #[error("{what} {path}: {why}")]
    File {
        /// The key of the configuration that names it.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The two do not go together, or are of a kind that is not safe.
    #[error("tls.cert and tls.key cannot be used together: {0}")]
    Pair(#[from] rustls::Error),
}

/// What connections are encrypted with. Cheap to clone; clones share it.
#[derive(Clone, Debug)]
pub struct Tls {
    cert: Arc<Path>,
    key: Arc<Path>,
    current: Arc<RwLock<Arc<ServerConfig>>>,
}

impl Tls {
    /// Reads a chain of certificates, the server's own first, and its private key. Both are PEM.
    pub fn load(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let current = Arc::new(RwLock::new(Arc::new(read(cert, key)?)));
        Ok(Self { cert: cert.into(), key: key.into(), current })
    }

    /// Reads both files again. New connections get what is in them now; if that cannot be used, what they had until now.
    pub fn reload(&self) -> Result<(), TlsError> {
        let new = Arc::new(read(&self.cert, &self.key)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner)).into()
    }
}

fn read(cert: &Path, key: &Path) -> Result<ServerConfig, TlsError> {
    let wrong = |what, path: &Path, why| TlsError::File { what, path: path.into(), why };
    let wrong_cert = |error| wrong("tls.cert", cert, brief(error));
    let chain: Vec<_> = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect).map_err(wrong_cert)?;
    if chain.is_empty() {
        return Err(wrong("tls.cert", cert, "there is no certificate in it".into()));
    }
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong("tls.key", key, brief(error)))?;
    // Named, and not the default of the process: another crate may bring a second one.
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = config.with_no_client_auth().with_single_cert(chain, key)?;
    config.alpn_protocols = [HTTP2, HTTP1].map(<[u8]>::to_vec).to_vec();
    Ok(config)
}

fn brief(error: pem::Error) -> String {
    match error {
        pem::Error::Io(error) => error.to_string(),
        pem::Error::NoItemsFound => "there is no key in it".into(),
        _ => "it is no PEM file".into(),
    }
}
