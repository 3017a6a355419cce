//! The way from an address to a connection that requests can be sent on: TCP, then TLS with the cluster's CA only.
//!
//! The library's own TLS connector is not used: it takes the name to verify from the URL (a kubeconfig may name another
//! one), builds the TLS configuration anew for each agent, and panics on a client key that does not fit. And whatever
//! fails in here is marked as "before sending": the request cannot have reached the server.

use super::ClientError;
use crate::kube::config::Trust;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme, StreamOwned};
use std::fmt;
use std::io::{Read, Write};
use std::sync::Arc;
use ureq::unversioned::transport::time::Duration;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, TcpConnector, Transport, TransportAdapter,
};

/// TLS sessions remembered for resumption: there is one server.
const SESSIONS: usize = 1;

pub(super) fn client_config(trust: &Trust) -> Result<Arc<ClientConfig>, ClientError> {
    let error = |e: rustls::Error| ClientError::Tls { what: e.to_string() };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().map_err(error)?;
    let builder = if trust.insecure {
        log::warn!("insecure-skip-tls-verify: the API server's certificate is not verified");
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified(provider)))
    } else {
        let mut roots = RootCertStore::empty();
        for certificate in trust.roots.iter() {
            roots.add(certificate.clone()).map_err(error)?;
        }
        builder.with_root_certificates(roots)
    };
    let mut config = match &trust.identity {
        Some(identity) => builder.with_client_cert_resolver(Arc::new(Identity(identity.0.clone()))),
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::in_memory_sessions(SESSIONS);
    Ok(Arc::new(config))
}

pub(super) fn server_name(name: &str) -> Result<ServerName<'static>, ClientError> {
    ServerName::try_from(name.to_owned())
        .map_err(|_| ClientError::Tls { what: format!("`{name}` is no name that a certificate can carry") })
}

/// Connects, and marks every failure as one before sending. Without a `config`: plain HTTP.
pub(super) fn connector(
    config: Option<Arc<ClientConfig>>,
    server_name: Option<ServerName<'static>>,
) -> impl Connector<(), Out = Box<dyn Transport>> {
    DirectConnector { tcp: TcpConnector::default(), tls: config.zip(server_name) }
}

struct DirectConnector {
    tcp: TcpConnector,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

impl fmt::Debug for DirectConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DirectConnector")
    }
}

impl Connector<()> for DirectConnector {
    type Out = Box<dyn Transport>;

    fn connect(&self, details: &ConnectionDetails, _: Option<()>) -> Result<Option<Self::Out>, ureq::Error> {
        self.open(details).map(Some).map_err(not_sent)
    }
}

impl DirectConnector {
    fn open(&self, details: &ConnectionDetails) -> Result<Box<dyn Transport>, ureq::Error> {
        let start = std::time::Instant::now();
        let tcp = Connector::<()>::connect(&self.tcp, details, None)?.ok_or(ureq::Error::ConnectionFailed)?;
        let Some((config, name)) = &self.tls else { return Ok(Box::new(tcp)) };

        let conn = ClientConnection::new(config.clone(), name.clone())?;
        let mut sock = TransportAdapter::new(Box::new(tcp) as Box<dyn Transport>, details.current_time.clone());
        // One deadline for TCP and TLS together.
        let mut timeout = details.timeout;
        if let Duration::Exact(whole) = timeout.after {
            timeout.after = Duration::Exact(whole.saturating_sub(start.elapsed()));
        }
        sock.set_timeout(timeout);
        let mut stream = StreamOwned { conn, sock };
        stream.conn.complete_io(&mut stream.sock)?;
        let buffers = LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(Box::new(TlsTransport { buffers, stream }))
    }
}

/// A failure before the first byte of the request was sent.
#[derive(Debug)]
struct NotSent(ureq::Error);

impl fmt::Display for NotSent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for NotSent {}

/// Marks an error as one before the first byte of the request was sent.
pub(super) fn not_sent(error: ureq::Error) -> ureq::Error {
    ureq::Error::Other(Box::new(NotSent(error)))
}

/// Whether the request certainly stayed here.
pub(super) fn before_sending(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::Other(inner) => inner.is::<NotSent>(),
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => true,
        _ => false,
    }
}

/// The error below the mark, with the library's wrapping in and out of `io::Error` undone.
pub(super) fn unwrapped(error: ureq::Error) -> ureq::Error {
    let error = match error {
        ureq::Error::Other(inner) => match inner.downcast::<NotSent>() {
            Ok(not_sent) => not_sent.0,
            Err(inner) => ureq::Error::Other(inner),
        },
        other => other,
    };
    match error {
        ureq::Error::Io(e) => ureq::Error::from(e),
        other => other,
    }
}

struct TlsTransport {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl Transport for TlsTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        let output = &self.buffers.output()[..amount];
        self.stream.write_all(output)?;
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        let input = self.buffers.input_append_buf();
        let amount = self.stream.read(input)?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.sock.get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

impl fmt::Debug for TlsTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsTransport")
    }
}

/// The one client certificate, whatever the server asks for. `config` checked that its key fits.
#[derive(Debug)]
struct Identity(Arc<rustls::sign::CertifiedKey>);

impl ResolvesClientCert for Identity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// `insecure-skip-tls-verify`: takes any certificate, but the peer must still hold its key.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
