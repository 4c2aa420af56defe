//! The keys of the configuration that say how the network is met.

use std::fmt::{self, Display};
use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::str::FromStr;

use ipnet::IpNet;
use outrigger_domain::limits::{BODY_BYTES_MAX, PAYLOAD_BYTES_MAX, UPLOAD_CHANGES_MAX};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::settings::from_text;

const fn size(value: usize) -> NonZeroUsize {
    NonZeroUsize::new(value).expect("the default is not zero")
}

const fn seconds(value: u32) -> NonZeroU32 {
    NonZeroU32::new(value).expect("the default is not zero")
}

/// `[limits]`
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    pub upload_changes_max: NonZeroUsize,
    pub payload_bytes_max: NonZeroUsize,
    pub body_bytes_max: NonZeroUsize,
    pub user_requests_per_s: u32,
    pub user_requests_burst: u32,
    pub user_requests_max: NonZeroUsize,
    pub user_uploads_max: NonZeroUsize,
    pub user_watchers_max: NonZeroUsize,
    pub address_requests_per_s: u32,
    pub address_requests_burst: u32,
    pub requests_max: NonZeroUsize,
    pub watchers_max: NonZeroUsize,
}

impl Default for Limits {
    /// None that a device meets which asks for one thing after another, however far it is behind.
    fn default() -> Self {
        const {
            Self {
                upload_changes_max: size(UPLOAD_CHANGES_MAX),
                payload_bytes_max: size(PAYLOAD_BYTES_MAX),
                body_bytes_max: size(BODY_BYTES_MAX),
                user_requests_per_s: 200,
                user_requests_burst: 1_000,
                user_requests_max: size(64),
                user_uploads_max: size(16),
                user_watchers_max: size(100),
                address_requests_per_s: 50,
                address_requests_burst: 200,
                requests_max: size(1_000),
                watchers_max: size(20_000),
            }
        }
    }
}

/// `[timeouts]`
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    pub header_s: NonZeroU32,
    pub body_s: NonZeroU32,
    pub body_bytes_per_s_min: NonZeroU32,
    pub idle_s: NonZeroU32,
    pub send_s: NonZeroU32,
}

impl Default for Timeouts {
    fn default() -> Self {
        const {
            Self {
                header_s: seconds(10),
                body_s: seconds(30),
                body_bytes_per_s_min: seconds(1_024),
                idle_s: seconds(75),
                send_s: seconds(30),
            }
        }
    }
}

/// `[tls]`
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// `[cors]`
#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cors {
    pub origins: Vec<Origin>,
}

/// What a page's address begins with, as browsers write it, or `*` for all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Origin(pub String);

impl Origin {
    /// Whether all are meant.
    pub fn is_any(&self) -> bool {
        self.0 == "*"
    }
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        let is_origin = host.is_some_and(|host| {
            !host.is_empty()
                && host
                    .bytes()
                    .all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase() || b".-:[]".contains(&byte))
        });
        if is_origin || text == "*" {
            return Ok(Self(text.to_owned()));
        }
        let rule = "in lower case and without anything behind the host and port";
        Err(format!("{text:?} is no origin such as https://app.example, {rule}, nor *"))
    }
}

impl<'de> Deserialize<'de> for Origin {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from_text(from)
    }
}

/// A network of addresses, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(pub IpNet);

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        let wrong = |_| format!("{text:?} is no address or network, such as 10.0.0.0/8");
        network.map(|network: IpNet| Self(network.trunc())).map_err(wrong)
    }
}

impl Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from_text(from)
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// What proxies write about whom they speak for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProxyHeader {
    /// `X-Forwarded-For`.
    #[default]
    XForwardedFor,
    /// `Forwarded`, RFC 7239.
    Forwarded,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_a_network_or_an_address() {
        for (text, network) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("192.0.2.1", "192.0.2.1/32"),
            ("2001:db8::1", "2001:db8::1/128"),
        ] {
            assert_eq!(text.parse::<Network>().unwrap().to_string(), network);
        }
        for bad in ["", "10.0.0.0/33", "10.0.0", "localhost", "10.0.0.0/8 "] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_origin_is_as_browsers_write_it() {
        for good in ["https://app.example", "http://localhost:5173", "http://[::1]:80", "*"] {
            assert!(good.parse::<Origin>().is_ok(), "{good}");
        }
        for bad in ["", "app.example", "https://", "https://app.example/", "https://App.example", "https://*.example"] {
            assert!(bad.parse::<Origin>().is_err(), "{bad}");
        }
    }
}
