//! The first step of the line: everything that a server needs is opened, and every address taken, while it still may;
//! then it shuts itself in.

use std::path::Path;

use ampoule_bundle::{SealedBundle, TrustRoot};

use super::{open_file, open_source};
use crate::adapters::AdapterFile;
use crate::admin_socket::AdminSocket;
use crate::admission::Admission;
use crate::config::{BundleSource, Layers, ListenPlan, MetricsPlan, RuntimeConfig};
use crate::error::Error;
use crate::host;
use crate::identity::IdentityFile;
use crate::inherited::Inherited;
use crate::keys::KeyStore;
use crate::listen::{BoundListener, BoundSocket, PlannedListener};
use crate::sandbox::{self, Loading, Reach};
use crate::state::Keeping;
use crate::store::{Record, Store};
use crate::trust;

/// Opens everything, takes the addresses, and enters the sandbox.
pub(super) fn shut_in(
    layers: &Layers,
    config: &RuntimeConfig,
    inherited: Inherited,
) -> Result<(Opened, Doors, Loading), Error> {
    let opened = Opened::open(config)?;
    let doors = Doors::open(layers, config, inherited)?;
    // While there is something to look into.
    host::facts()?;
    // Before there is a second thread, so that every thread is inside.
    let sandbox = sandbox::enter(&doors.reach(opened.site.admission.keeping()), config.sandbox_required)?;
    Ok((opened, doors, sandbox))
}

/// Everything that comes from files.  The site's own have been read, those that others made are only open.
pub(super) struct Opened {
    pub(super) site: Site,
    pub(super) active: Candidate,
    /// What a store goes back to when the active bundle, being new, does not become ready.
    pub(super) previous: Option<Candidate>,
}

/// What the site gave.
pub(super) struct Site {
    pub(super) trust_root: TrustRoot,
    pub(super) admission: Admission,
    /// The open file of the identity that opens what is encrypted.
    pub(super) identity: Option<IdentityFile>,
    pub(super) keys: KeyStore,
    pub(super) adapters: Vec<AdapterFile>,
}

/// A bundle that may be served, and that nobody has looked at.
pub(super) struct Candidate {
    pub(super) name: String,
    pub(super) read: Box<dyn FnOnce() -> Result<SealedBundle, Error> + Send>,
    /// The bundle of the store that is given up for this one.
    pub(super) reverted_from: Option<String>,
}

impl Opened {
    pub(super) fn open(config: &RuntimeConfig) -> Result<Opened, Error> {
        let keys = KeyStore::load(&config.keys_file)?;
        if keys.is_empty() {
            return Err(Error::NoKeys { path: config.keys_file.clone() });
        }
        let (trust_root, _) = trust::open_for_serving(&config.admission.trust_root, &config.admission.supplements)?;
        let admission = Admission::of_site(&config.admission)?;
        let identity = IdentityFile::open(config.admission.decryption_identity.as_deref())?;
        let (active, previous) = match &config.source {
            BundleSource::File(path) => {
                let (file, name) = (open_file(path)?, path.display().to_string());
                let read = {
                    let name = name.clone();
                    Box::new(move || open_source(file, &name))
                };
                (Candidate { name, read, reverted_from: None }, None)
            }
            BundleSource::Store(folder) => {
                let store = Store::open(folder)?;
                let catalogue = store.catalogue();
                let (active, failed) = (store.active()?, catalogue.failed().map(Record::title));
                let spare = |record| Candidate::in_store(&store, record, Some(active.title()));
                let previous = catalogue.previous().map(spare);
                (Candidate::in_store(&store, active, failed), previous)
            }
        };
        let adapters = config.adapters.iter().map(|path| AdapterFile::open(path)).collect::<Result<_, _>>()?;
        Ok(Opened { site: Site { trust_root, admission, identity, keys, adapters }, active, previous })
    }
}

impl Candidate {
    /// A bundle of a store, whose folder stays within reach: its blobs are opened when it is read.
    pub(super) fn in_store(store: &Store, record: &Record, reverted_from: Option<String>) -> Candidate {
        let (store, record) = (store.clone(), record.clone());
        Candidate { name: store.describe(&record), read: Box::new(move || store.open_bundle(&record)), reverted_from }
    }
}

/// Where requests come in.  Addresses are taken, and nothing is accepted yet.
pub(super) struct Doors {
    pub(super) listener: BoundListener,
    pub(super) metrics: Option<BoundSocket>,
    pub(super) admin: Option<AdminSocket>,
}

impl Doors {
    /// Addresses and TLS files are the site's own: no bundle has a say in them.
    pub(super) fn open(layers: &Layers, config: &RuntimeConfig, inherited: Inherited) -> Result<Doors, Error> {
        let of_site = layers.merge();
        let listener = match inherited.api {
            None => PlannedListener::prepare(&config.listen)?,
            Some(api) => PlannedListener::inherit(&ListenPlan::inherited(&of_site, api.address)?, api)?,
        };
        let metrics = match (inherited.metrics, &config.metrics) {
            (None, None) => None,
            (None, Some(plan)) => Some(BoundSocket::for_metrics(plan)?),
            (Some(metrics), _) => {
                // The plan itself says no more than the address that the socket has.
                MetricsPlan::inherited(&of_site, metrics.address)?;
                Some(BoundSocket::inherited(metrics))
            }
        };
        let listener = listener.bind()?;
        let admin = config.admin_socket.as_deref().map(AdminSocket::bind).transpose()?;
        Ok(Doors { listener, metrics, admin })
    }

    /// What the process must still reach beside what is open: the state, in which it keeps what it has seen, and the file of
    /// the admin socket, which goes with it.
    pub(super) fn reach(&self, keeping: &Keeping) -> Reach {
        let tidied = self.admin.iter().map(|socket| socket.folder().to_owned()).collect();
        Reach { folders: keeping.folder().map(Path::to_owned).into_iter().collect(), tidied }
    }
}
