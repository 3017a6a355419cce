//! Certificates and keys: PEM to what TLS needs, each checked here, so that the connection cannot fail on them later.

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::fmt;
use std::sync::Arc;

/// Whom we trust, and the certificate by which we are known.
#[derive(Clone, Default)]
pub struct Trust {
    /// The cluster's CA certificates. Nothing else is trusted: no public roots.
    pub roots: Arc<Vec<CertificateDer<'static>>>,
    /// `insecure-skip-tls-verify`: any certificate is taken.
    pub insecure: bool,
    /// `tls-server-name`: the name that the server's certificate must carry, where it is not the host of the URL.
    pub server_name: Option<String>,
    pub identity: Option<ClientIdentity>,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust")
            .field("roots", &self.roots.len())
            .field("insecure", &self.insecure)
            .field("server_name", &self.server_name)
            .field("identity", &self.identity)
            .finish()
    }
}

/// A client certificate with its key, known to belong together.
#[derive(Clone)]
pub struct ClientIdentity(pub Arc<CertifiedKey>);

impl fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(client certificate)")
    }
}

/// The CA certificates of a PEM bundle; at least one, all readable.
pub(super) fn roots(pem: &[u8]) -> Result<Arc<Vec<CertificateDer<'static>>>, String> {
    let certificates = certificates(pem)?;
    let mut store = RootCertStore::empty();
    for (i, certificate) in certificates.iter().enumerate() {
        store.add(certificate.clone()).map_err(|e| format!("certificate {} cannot be used: {e}", i + 1))?;
    }
    Ok(Arc::new(certificates))
}

/// A client certificate chain and its private key, both PEM.
pub(super) fn identity(chain: &[u8], key: &[u8]) -> Result<ClientIdentity, String> {
    let chain = certificates(chain)?;
    // The parser's own error could repeat what it read: a key must not reach a log.
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|_| "the key is no PEM private key (PKCS#8, PKCS#1 or SEC1, not encrypted)".to_owned())?;
    let provider = rustls::crypto::ring::default_provider();
    let pair = CertifiedKey::from_der(chain, key, &provider)
        .map_err(|e| format!("certificate and key cannot be used together: {e}"))?;
    Ok(ClientIdentity(Arc::new(pair)))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    match all {
        Ok(all) if all.is_empty() => Err("holds no PEM certificate".to_owned()),
        Ok(all) => Ok(all),
        Err(_) => Err("is no readable PEM".to_owned()),
    }
}
