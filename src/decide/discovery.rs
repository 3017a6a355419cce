//! Volumes of discovery directories: which found ones are offered and which are not, their names, and the
//! PersistentVolume that each becomes. Once offered they go the way of every volume; nothing here leads to a written byte
//! of what does not read blank.

use super::plan::{Report, Word};
use super::snapshot::{BackoffKey, Snapshot};
use super::{Ctx, adopt, cleaning, devices, not_in_service, offer, volume};
use crate::kube::objects::{
    Capacity, LocalVolumeSource, Node, ObjectMeta, OwnerReference, PersistentVolume, PersistentVolumeSpec,
    PersistentVolumeStatus, Phase, StorageClass,
};
use crate::model::cleaning::{Cleaning, Permission};
use crate::model::device::{Content, Device, Place};
use crate::model::discovery::{Cleaner, Discovered};
use crate::model::flat_map::FlatMap;
use crate::model::memory::{self, Entry, State};
use crate::model::reason::Reason;
use crate::model::{discovery_names, names, quantity};
use crate::settings::discovery::{Class, DiscoverySettings, Mode};
use serde_json::json;
use std::path::Path;

/// Kubernetes 1.7 looked for the affinity here (`useAlphaAPI`).
const ALPHA_AFFINITY: &str = "volume.alpha.kubernetes.io/node-affinity";

/// What a person can do about a volume that cannot be read.
const WHEN_UNREADABLE: &str = "check the disk (kernel log, SMART), or take it out of the directory";

/// Whether a PV was made for a discovery directory: by the original, or by us in its place.
pub fn is_discovered(pv: &PersistentVolume) -> bool {
    pv.metadata.annotations.contains_key(names::PROVISIONED_BY_ANNOTATION)
}

/// R, as far as the PV itself says: Released, and cleaning it is ours to do. On raw devices `Retain` only keeps Kubernetes'
/// own hands off; here it means what it says, also when the PV has lost the annotation and only the ledger's entry knows.
pub fn is_to_be_cleaned(pv: &PersistentVolume, entry: Option<&Entry>) -> bool {
    let discovered = is_discovered(pv) || entry.is_some_and(|entry| entry.discovered.is_some());
    pv.status.phase == Phase::Released && (!discovered || policy(pv) == "Delete")
}

/// The API server's default is `Retain`.
pub(super) fn policy(pv: &PersistentVolume) -> &str {
    pv.spec.persistent_volume_reclaim_policy.as_deref().unwrap_or("Retain")
}

/// How a volume is cleaned: a directory is emptied, a device as its class says.
pub(super) fn cleaner(class: &Class, place: Place) -> Cleaner {
    match place {
        Place::Directory { .. } => Cleaner::Empty,
        Place::Block { .. } | Place::File { .. } => class.block_cleaner.clone(),
    }
}

/// The same of a PersistentVolume that no class leads to.
const WHEN_UNPLACED: &str = "put its class and hostDir back into the config, or delete it when it is free and its data is not \
                             needed (what may be its is quarantined then)";

/// A volume without an entry. What an administrator put there is offered as it is found, as long as the ledger would know
/// a volume that was offered before.
pub(super) fn unknown_volume(ctx: &mut Ctx<'_>, index: usize, discovered: &Discovered) {
    let group = &ctx.devices.groups[index];
    let path = group.selected[0];
    if let Some(obstacle) = obstacle(ctx, index, path, discovered) {
        return ctx.push(report(ctx, index, path, obstacle));
    }
    match &group.device.content {
        Content::Unreadable { error } => {
            let mut obstacle = Obstacle::error(format!("cannot be read: {error}"));
            obstacle.next = Some(WHEN_UNREADABLE.to_owned());
            ctx.push(report(ctx, index, path, obstacle));
        }
        Content::NotRead => {
            ctx.push(report(ctx, index, path, Obstacle::waiting("its content has not been read yet")));
        }
        content @ (Content::Data { .. } | Content::Blank) => {
            // What the ledger forgot, or cannot recognise, may be a tenant's.
            let doubt = if !ctx.ledger_is_whole() {
                Some("the ledger cannot say whose it is".to_owned())
            } else {
                not_in_service::missing_kin(ctx, index).map(|kin| format!("may be the missing volume of {kin}"))
            };
            let directory = matches!(group.device.place, Place::Directory { .. });
            let state = match (doubt, content) {
                (Some(doubt), Content::Data { found }) => {
                    let why = format!("it holds {}, and {doubt}", found.join(", "));
                    State::Quarantined { nonce: ctx.nonce(), why, pv: None }
                }
                // A sample reads blank: what lies between may be a tenant's.
                (Some(_), _) if !directory => State::Preparing,
                _ => State::Clean { by: Cleaning::AsFound },
            };
            ctx.new_entry(index, path, state);
        }
    }
}

/// A block volume that may have been in service and reads blank, although nobody saw it released: it is zeroed, as far as
/// its class covers it, and offered then.
pub(super) fn preparing(ctx: &mut Ctx<'_>, entry: &Entry, index: usize) {
    if cleaning::running(ctx, entry, index) {
        return;
    }
    if ctx.s.looked_since_change(&entry.id) {
        match &ctx.devices.groups[index].device.content {
            Content::Data { found } => {
                let why = format!("it holds {}, although it read blank", found.join(", "));
                return not_in_service::quarantine(ctx, entry, why);
            }
            Content::Unreadable { error } => {
                let mut report = ctx.report(entry, Word::Error, format!("cannot be read: {error}"));
                report.next = Some(WHEN_UNREADABLE.to_owned());
                return ctx.push(report);
            }
            Content::Blank | Content::NotRead => {}
        }
    }
    let Some(path) = ctx.devices.groups[index].selected.first().copied() else {
        return ctx.say(entry, Word::Clean, "the settings do not select it");
    };
    let Some(discovered) = ctx.discovered(path).cloned() else { return };
    if stopped(ctx, entry, index, path, &discovered) {
        return;
    }
    cleaning::start(ctx, entry, index, Permission::Blank);
}

/// Says what stands against an offer, if anything does.
fn stopped(ctx: &mut Ctx<'_>, entry: &Entry, index: usize, path: &Path, discovered: &Discovered) -> bool {
    let Some(obstacle) = obstacle(ctx, index, path, discovered) else { return false };
    let mut report = ctx.report(entry, obstacle.word, obstacle.why);
    report.next = obstacle.next;
    ctx.push(report);
    true
}

/// Not offered at the moment: offered, if it may be.
pub(super) fn clean(ctx: &mut Ctx<'_>, entry: &Entry, index: usize) {
    let State::Clean { by } = entry.state else { return };
    let Some(path) = ctx.devices.groups[index].selected.first().copied() else {
        return ctx.say(entry, Word::Clean, "the settings do not select it");
    };
    let Some(discovered) = ctx.discovered(path).cloned() else { return };
    let device = ctx.devices.groups[index].device;
    if by == Cleaning::ByClass && entry.cleaner.as_ref().is_none_or(Cleaner::leaves_nothing) {
        // A volume that was there in between, unseen, may have left something; in a directory anybody may.
        let looked = ctx.s.looked_since_change(&entry.id);
        let is_directory = matches!(device.place, Place::Directory { .. });
        if !looked && (is_directory || !ctx.s.known_since(&entry.id, offer::KNOWN_BLANK)) {
            ctx.plan.look = true;
            return ctx.say(entry, Word::Clean, "it is looked at once more before it is offered");
        }
        if looked && let Content::Data { found } = &device.content {
            let why = format!("it holds {}, although it was cleaned", found.join(", "));
            return not_in_service::quarantine(ctx, entry, why);
        }
    }
    if by == Cleaning::ByClass && class_covers_more(ctx, entry, &discovered) {
        // It was cleaned as its class said then.
        return ctx.write(entry, State::Preparing);
    }
    if stopped(ctx, entry, index, path, &discovered) {
        return;
    }
    if let Some(backoff) = ctx.s.backing_off(&BackoffKey::Offer(entry.id.clone())) {
        let (until, reason) = (backoff.until, backoff.reason.clone());
        ctx.plan.wake(until);
        return ctx.say(entry, Word::Clean, format!("offering it failed and is tried again: {reason}"));
    }
    let Some(class) = ctx.s.discovery_settings().and_then(|settings| settings.classes.get(&discovered.class)) else {
        return;
    };
    let Some(pv) = free_name(ctx, entry, path, &discovered.class) else {
        return ctx.say(entry, Word::Error, "every name that its PersistentVolume may have is taken");
    };
    let device = ctx.devices.groups[index].device;
    let next = Entry {
        state: State::Offering { pv, offer_id: ctx.draw(32) },
        path: path.to_path_buf(),
        cleaner: Some(cleaner(class, device.place)),
        // What it goes back to when the server refuses the offer.
        promise: by,
        evidence: memory::evidence(device, &ctx.s.boot_id),
        since: ctx.s.wall.clone(),
        progress: None,
        discovered: Some(discovered),
        ..entry.clone()
    };
    ctx.plan.writes.push(next);
}

/// Whether the class cleans more of a block volume by now than it did when this one was cleaned.
fn class_covers_more(ctx: &Ctx<'_>, entry: &Entry, discovered: &Discovered) -> bool {
    let class = ctx.s.discovery_settings().and_then(|settings| settings.classes.get(&discovered.class));
    let directory = matches!(entry.evidence.place, Place::Directory { .. });
    let covered = |cleaner: &Cleaner| cleaner.covers() == Cleaning::Quick;
    !directory
        && entry.cleaner.as_ref().is_some_and(covered)
        && class.is_some_and(|class| !covered(&class.block_cleaner))
}

/// The PV of an offer. `None` where what it is made from is not there any more.
pub(super) fn new_volume(
    ctx: &Ctx<'_>,
    entry: &Entry,
    index: usize,
    name: &str,
    offer_id: &str,
) -> Option<PersistentVolume> {
    let discovered = entry.discovered.as_ref()?;
    let settings = ctx.s.discovery_settings()?;
    let offer = Offer {
        settings,
        node: ctx.s.existing_node()?,
        class_name: &discovered.class,
        class: settings.classes.get(&discovered.class)?,
        storage_class: ctx.s.storage_classes.as_ref()?.get(&discovered.class)?,
        device: ctx.devices.groups[index].device,
        path: entry.path.to_str()?,
        name,
        offer_id,
    };
    Some(persistent_volume(ctx.s, &offer))
}

/// Says of a Released volume that is not cleaned why not, and what a person can do.
pub(super) fn retained(pv: &PersistentVolume, entry: &Entry, mut report: Report) -> Report {
    if pv.status.phase != Phase::Released || is_to_be_cleaned(pv, Some(entry)) {
        return report;
    }
    let name = &pv.metadata.name;
    let (event, why) = match policy(pv) {
        "Retain" => (None, "its reclaim policy is Retain: nothing is done with it".to_owned()),
        "Recycle" => {
            (Some(Reason::VolumeUnsupportedReclaimPolicy), "reclaim policy Recycle is not supported".to_owned())
        }
        other => (Some(Reason::VolumeUnknownReclaimPolicy), format!("reclaim policy {other} is not known")),
    };
    report.reason = format!("{}; {why}", report.reason);
    report.event = event;
    report.next = Some(format!(
        "to have it cleaned and offered again: kubectl patch pv {name} -p '{{\"spec\":{{\"persistentVolumeReclaimPolicy\":\"Delete\"}}}}'"
    ));
    report
}

/// Everything that makes one PV.
struct Offer<'a> {
    settings: &'a DiscoverySettings,
    node: &'a Node,
    class_name: &'a str,
    class: &'a Class,
    storage_class: &'a StorageClass,
    device: &'a Device,
    path: &'a str,
    name: &'a str,
    offer_id: &'a str,
}

/// The original's shape, field by field; besides, the label that our watch selects by, and which device it is.
fn persistent_volume(s: &Snapshot, offer: &Offer<'_>) -> PersistentVolume {
    let Offer { settings, node, class, .. } = *offer;
    let mut terms = vec![volume::on_host(s.hostname())];
    terms.extend(class.selector.iter().cloned());
    let mut annotations: FlatMap<String, String> = [
        (names::PROVISIONED_BY_ANNOTATION.to_owned(), provisioner(settings, node)),
        (names::IDENTITY_ANNOTATION.to_owned(), offer.device.identity.to_annotation()),
        (names::OFFER_ANNOTATION.to_owned(), offer.offer_id.to_owned()),
    ]
    .into();
    let mut affinity = None;
    if settings.use_alpha_api {
        let text = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}});
        annotations.insert(ALPHA_AFFINITY.to_owned(), text.to_string());
    } else {
        affinity = Some(volume::affinity(terms));
    }
    PersistentVolume {
        metadata: ObjectMeta {
            name: offer.name.to_owned(),
            labels: labels(s, settings, node),
            annotations,
            owner_references: settings.set_pv_owner_ref.then(|| owner(node)).into_iter().collect(),
            ..ObjectMeta::default()
        },
        spec: PersistentVolumeSpec {
            capacity: Capacity { storage: rounded(offer.device.size) },
            volume_mode: Some(class.mode.as_str().to_owned()),
            access_modes: vec![class.access_mode.clone()],
            persistent_volume_reclaim_policy: Some(reclaim_policy(offer.storage_class).to_owned()),
            storage_class_name: offer.class_name.to_owned(),
            mount_options: offer.storage_class.mount_options.clone(),
            local: Some(LocalVolumeSource { path: offer.path.to_owned(), fs_type: class.fs_type.clone() }),
            claim_ref: None,
            node_affinity: affinity,
        },
        status: PersistentVolumeStatus::default(),
    }
}

/// As the original: whole GiB or MiB, where there are at least ten of them.
fn rounded(size: u64) -> String {
    quantity::format_binary(quantity::round_down(size))
}

fn provisioner(settings: &DiscoverySettings, node: &Node) -> String {
    discovery_names::provisioner_name(&node.metadata.name, &node.metadata.uid, settings.use_node_name_only)
}

/// What a PV in service should carry. Without settings only what we need ourselves: a label that was removed from a config
/// that cannot be read now is not missed.
pub(super) fn wanted(s: &Snapshot, node: &Node, device: &Device) -> adopt::Wanted {
    let settings = s.discovery_settings();
    let ours = || [(names::NODE_LABEL.to_owned(), s.node_label())].into();
    let mut annotations = vec![(names::IDENTITY_ANNOTATION, device.identity.to_annotation())];
    annotations.extend(settings.map(|settings| (names::PROVISIONED_BY_ANNOTATION, provisioner(settings, node))));
    // What a pool has left for a filesystem without a UUID (ZFS) changes all the time.
    let steady = !device.identity.is_weak() || !matches!(device.place, Place::Directory { .. });
    adopt::Wanted {
        labels: settings.map_or_else(ours, |settings| labels(s, settings, node)),
        annotations,
        owner: settings.filter(|settings| settings.set_pv_owner_ref).map(|_| owner(node)),
        capacity: steady.then(|| rounded(device.size)),
    }
}

/// The Node's labels that are asked for, then the settings' own, then ours.
fn labels(s: &Snapshot, settings: &DiscoverySettings, node: &Node) -> FlatMap<String, String> {
    let of_node = settings.node_labels_for_pv.iter();
    let of_node = of_node.filter_map(|key| Some((key.clone(), node.metadata.labels.get(key)?.clone())));
    let of_settings = settings.labels_for_pv.iter().map(|(key, value)| (key.clone(), value.clone()));
    let label = s.node_label();
    let ours = [(names::NODE_LABEL.to_owned(), label)];
    let mut all = FlatMap::default();
    for (key, value) in of_node.chain(of_settings).chain(ours) {
        all.insert(key, value);
    }
    all
}

/// As the original: an owner, not the controller.
fn owner(node: &Node) -> OwnerReference {
    OwnerReference { controller: None, block_owner_deletion: None, ..volume::owner(node) }
}

/// Absent, it is `Delete`: for classes the API server says so too.
fn reclaim_policy(class: &StorageClass) -> &str {
    class.reclaim_policy.as_deref().unwrap_or("Delete")
}

/// The name that an entry of a class gets, as long as nobody else has it.
pub(super) fn first_name(s: &Snapshot, path: &Path, class: &str) -> Option<String> {
    let base = path.file_name().and_then(|name| name.to_str())?;
    Some(discovery_names::pv_name(base, &s.node_name, class))
}

/// Both names that a volume of ours may have: 32 bits of a hash collide, on one node or between two.
pub(super) fn names_of(s: &Snapshot, path: &Path, class: &str) -> Vec<String> {
    let base = path.file_name().and_then(|name| name.to_str());
    let longer = base.map(|base| discovery_names::longer_pv_name(base, &s.node_name, class));
    first_name(s, path, class).into_iter().chain(longer).collect()
}

fn free_name(ctx: &Ctx<'_>, entry: &Entry, path: &Path, class: &str) -> Option<String> {
    let taken = |name: &String| {
        let by_pv = ctx.s.pv(name).is_some();
        let by_offer = ctx.offers.get(name.as_str()).is_some_and(|other| other.id != entry.id);
        // Of two that are found at the same time the first by path has it.
        let by_first = ctx.first_of_name.get(name).is_some_and(|first| *first != path);
        by_pv || by_offer || by_first || ctx.s.taken_names.contains(name)
    };
    names_of(ctx.s, path, class).into_iter().find(|name| !taken(name))
}

/// What stands against an offer, and what a person can do.
struct Obstacle {
    word: Word,
    why: String,
    next: Option<String>,
}

impl Obstacle {
    fn waiting(why: impl Into<String>) -> Obstacle {
        Obstacle { word: Word::Waiting, why: why.into(), next: None }
    }

    fn error(why: impl Into<String>) -> Obstacle {
        Obstacle { word: Word::Error, why: why.into(), next: None }
    }

    fn next(mut self, next: impl Into<String>) -> Obstacle {
        self.next = Some(next.into());
        self
    }
}

fn obstacle(ctx: &Ctx<'_>, index: usize, path: &Path, discovered: &Discovered) -> Option<Obstacle> {
    let group = &ctx.devices.groups[index];
    let name = &discovered.class;
    let Some(class) = ctx.s.discovery_settings().and_then(|settings| settings.classes.get(name)) else {
        return Some(Obstacle::waiting(format!("the config directory has no class {name}")));
    };
    let Some(node) = ctx.s.existing_node() else {
        return Some(Obstacle::waiting(format!("Node {} does not exist", ctx.s.node_name)));
    };
    if node.metadata.deletion_timestamp.is_some() {
        return Some(Obstacle::waiting(format!("Node {} is being deleted", ctx.s.node_name)));
    }
    let Some(storage_class) = ctx.s.storage_classes.as_ref().and_then(|classes| classes.get(name)) else {
        let next =
            format!("create it, with provisioner kubernetes.io/no-provisioner, or take {name} out of the config");
        return Some(Obstacle::waiting(format!("StorageClass {name} does not exist")).next(next));
    };
    if !matches!(reclaim_policy(storage_class), "Delete" | "Retain") {
        let policy = reclaim_policy(storage_class);
        let obstacle = Obstacle::error(format!("reclaimPolicy {policy} of StorageClass {name} is not supported"));
        return Some(obstacle.next("make the class again with Delete or Retain"));
    }
    let directory = matches!(group.device.place, Place::Directory { .. });
    if directory && class.mode == Mode::Block {
        let obstacle = Obstacle::error(format!("it is a directory, and class {name} has Block volumes"));
        return Some(obstacle.next("put a link to a block device there, or set volumeMode: Filesystem"));
    }
    if path.to_str().is_none() {
        return Some(Obstacle::error("its path is not UTF-8, so no PersistentVolume can name it").next("rename it"));
    }
    if let Some(problem) = &group.problem {
        return Some(Obstacle::error(problem.clone()).next("leave only one of them in the directory"));
    }
    if let Some(claim) = ctx.devices.claims_beside(index, None) {
        let obstacle = Obstacle::error(format!("PersistentVolume {} names it, or a part of it", claim.name));
        return Some(obstacle.next("take it out of the directory, or delete that PersistentVolume"));
    }
    if let Some(stray) = unplaced(ctx) {
        let obstacle =
            Obstacle::waiting(format!("PersistentVolume {stray} of this node lies in no directory of the config"));
        return Some(obstacle.next(WHEN_UNPLACED));
    }
    if let Some(protection) = &group.device.protection {
        let obstacle = Obstacle { word: Word::Refused, why: protection.to_string(), next: None };
        return Some(obstacle.next("take it out of the directory"));
    }
    if let Some(in_use) = &group.device.in_use {
        return Some(Obstacle { word: Word::InUse, why: in_use.to_string(), next: None });
    }
    None
}

/// A PV of this node's provisioner that the ledger does not know and that no class leads to: its volume may be any that is
/// found, under another name.
fn unplaced<'a>(ctx: &Ctx<'a>) -> Option<&'a str> {
    let directories = ctx.s.discovery_settings().map(DiscoverySettings::directories).unwrap_or_default();
    let is_placed = |pv: &PersistentVolume| {
        let path = pv.spec.local.as_ref().map(|local| Path::new(&local.path));
        path.is_none_or(|path| directories.iter().any(|dir| path.parent() == Some(&dir.host_dir)))
    };
    let is_known = |pv: &PersistentVolume| {
        ctx.known.get(pv.metadata.uid.as_str()).is_some_and(|entry| !entry.evidence.is_unseen())
    };
    let mut pvs = ctx.s.pvs.iter().flat_map(|pvs| pvs.values()).filter(|pv| is_of_node(ctx.s, pv));
    pvs.find(|pv| !is_placed(pv) && !is_known(pv)).map(|pv| pv.metadata.name.as_str())
}

/// Whether this node's provisioner made it, as far as it says.
pub(super) fn is_of_node(s: &Snapshot, pv: &PersistentVolume) -> bool {
    let by = pv.metadata.annotations.get(names::PROVISIONED_BY_ANNOTATION);
    by.is_some_and(|by| discovery_names::is_provisioner_of(by, &s.node_name))
}

/// What keeps many volumes from an offer, said once.
pub(super) fn notices(ctx: &mut Ctx<'_>) {
    let s = ctx.s;
    let Some(settings) = s.discovery_settings() else { return };
    if let Some(stray) = unplaced(ctx) {
        let says = format!(
            "PersistentVolume {stray} of this node lies in no directory of the config: no volume of a discovery directory is \
             offered, as any may be its. Next: {WHEN_UNPLACED}"
        );
        ctx.notice(Reason::SettingsMismatch, says);
    }
    let Some(known) = &s.storage_classes else { return };
    let lacking: Vec<&str> =
        settings.classes.keys().map(String::as_str).filter(|class| known.get(*class).is_none()).collect();
    if !lacking.is_empty() {
        let says = format!(
            "no StorageClass is named {}: the volumes of these classes are not offered. Next: create it, with provisioner \
             kubernetes.io/no-provisioner, or take the class out of the config",
            lacking.join(" or ")
        );
        ctx.notice(Reason::ConfigWarning, says);
    }
}

fn report(ctx: &Ctx<'_>, index: usize, path: &Path, obstacle: Obstacle) -> Report {
    let mut report = not_in_service::bare_report(ctx, path, index, obstacle.word, obstacle.why);
    report.next = obstacle.next;
    report
}

/// Whether a PV was made for this very Node object, as far as its annotation says which one.
pub(super) fn was_provisioned_on(pv: &PersistentVolume, node: &Node) -> bool {
    let (name, uid) = (&node.metadata.name, &node.metadata.uid);
    let by = pv.metadata.annotations.get(names::PROVISIONED_BY_ANNOTATION);
    [false, true].iter().any(|name_only| by == Some(&discovery_names::provisioner_name(name, uid, *name_only)))
}

/// Whether a PV has the shape that we, or the original, give to a volume of a discovery directory of this node.
pub fn is_ours(s: &Snapshot, pv: &PersistentVolume) -> Result<(), String> {
    let path = adopt::plain_path(pv)?;
    let provisioner = pv.metadata.annotations.get(names::PROVISIONED_BY_ANNOTATION).map_or("", String::as_str);
    if !discovery_names::is_provisioner_of(provisioner, &s.node_name) {
        return Err(format!("it was provisioned by {provisioner}"));
    }
    let class_name = pv.spec.storage_class_name.as_str();
    let Some(class) = s.discovery_settings().and_then(|settings| settings.classes.get(class_name)) else {
        return Err(format!("its class {class_name} is not in the config directory"));
    };
    // One level below the directory, as text: a PV's path is what the kubelet mounts.
    if path.parent() != Some(class.host_dir.as_path()) {
        return Err(format!("{} does not lie in {}", path.display(), class.host_dir.display()));
    }
    if !names_of(s, path, class_name).contains(&pv.metadata.name) {
        return Err(format!("its name is not the one of {} in class {class_name}", path.display()));
    }
    Ok(())
}

/// Two sources may find one device: what is in service stays with its source, and new it is nobody's.
pub(super) fn sort_out(s: &Snapshot, group: &mut devices::Group<'_>, in_service: Option<&Entry>) {
    let discovered = |path: &Path| {
        s.scan.as_ref().and_then(|scan| scan.observations.get(path)).is_some_and(|seen| seen.discovered.is_some())
    };
    let of_directories = group.selected.iter().filter(|path| discovered(path)).count();
    if of_directories == 0 || of_directories == group.selected.len() {
        return;
    }
    match in_service {
        Some(entry) => group.selected.retain(|path| discovered(path) == entry.discovered.is_some()),
        None => group.problem = Some("deviceNameFilter selects it, and it is in a discovery directory too".to_owned()),
    }
}
