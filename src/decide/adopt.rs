//! PVs with our label that this node does not know: made by the original, by a former ledger's time, or forged.
//! Takes over what is well formed and whose device nothing speaks against; leaves everything else alone, visibly.

use super::devices::{self, Home};
use super::in_service::{self, path_of, reference};
use super::plan::{Report, Word};
use super::snapshot::Snapshot;
use super::{Ctx, discovery, volume};
use crate::kube::objects::{Node, OwnerReference, PersistentVolume, Phase};
use crate::model::device::{Comparison, Device, Evidence, Identity, Place};
use crate::model::discovery::Discovered;
use crate::model::flat_map::FlatMap;
use crate::model::memory::{self, Entry, PvRef, State};
use crate::model::{names, quantity};
use crate::settings::Settings;
use serde_json::{Map, Value, json};
use std::path::{Component, Path};

/// A PV with our label and a UID that no entry holds.
pub(super) fn unknown_pv(ctx: &mut Ctx<'_>, pv: &PersistentVolume) {
    if is_awaited(ctx, pv) {
        return;
    }
    let path = path_of(pv);
    if let Err(why) = is_ours(ctx.s, pv) {
        let remembered = format!("PersistentVolume {} names it and does not fit: {why}", pv.metadata.name);
        match ctx.devices.at_path(path) {
            Some(index) => remember_use(ctx, pv, index, Some(reference(pv)), remembered),
            None if plain_path(pv).is_ok() => remember_absent(ctx, pv, remembered),
            None => {}
        }
        return leave(ctx, pv, Word::Foreign, why);
    }
    let Some(index) = ctx.devices.at_path(path) else {
        let why = format!("PersistentVolume {} was in use before this node knew it", pv.metadata.name);
        remember_absent(ctx, pv, why);
        return leave(ctx, pv, Word::Absent, "its device is not there; the PersistentVolume is left alone".to_owned());
    };
    let left = |why: &str| format!("PersistentVolume {} names it, and was not taken over: {why}", pv.metadata.name);
    if let Some(why) = is_of_another(pv, ctx.devices.groups[index].device) {
        remember_use(ctx, pv, index, None, left(&why));
        return leave(ctx, pv, Word::Error, why);
    }
    let problem = ctx.devices.groups[index].problem.clone();
    let beside = || ctx.devices.claims_beside(index, Some(&pv.metadata.uid));
    if let Some(why) = problem.or_else(|| Some(format!("PersistentVolume {} names the same device", beside()?.name))) {
        remember_use(ctx, pv, index, Some(reference(pv)), left(&why));
        return leave(ctx, pv, Word::Error, why);
    }
    let existing = entry_of(ctx, index);
    let replaced = match existing.map(|entry| &entry.state) {
        None | Some(State::Clean { .. } | State::Preparing) => existing,
        // A quarantined device is given back by `reclaim`, which compares what was recorded.
        Some(State::Quarantined { .. }) => return,
        Some(state) => {
            let why = format!("this node did not make it, and its device is {}", state.word());
            return leave(ctx, pv, Word::Foreign, why);
        }
    };
    if existing.is_some_and(|entry| ctx.s.jobs.contains_key(&entry.id)) {
        // The live read before the first byte sees the PV; the entry is free again when the worker has let go.
        return;
    }
    let state = if discovery::is_to_be_cleaned(pv, None) {
        match release_is_believed(ctx, pv, index) {
            Verdict::Wait(why) => return leave(ctx, pv, Word::Waiting, why),
            Verdict::Believed => in_service::state_of(pv, None),
            Verdict::Quarantine(why) => State::Quarantined { nonce: ctx.nonce(), why, pv: Some(reference(pv)) },
        }
    } else {
        in_service::state_of(pv, None)
    };
    match replaced {
        Some(entry) => replace(ctx, entry, index, path, state),
        None => ctx.new_entry(index, path, state),
    }
}

fn replace(ctx: &mut Ctx<'_>, entry: &Entry, index: usize, path: &Path, state: State) {
    let evidence = memory::evidence(ctx.devices.groups[index].device, &ctx.s.boot_id);
    let (path, since) = (path.to_path_buf(), ctx.s.wall.clone());
    ctx.plan.writes.push(Entry { state, path, evidence, since, progress: None, ..entry.clone() });
}

/// The entry of a device, or one that may be its: two entries for one device would stand in each other's way.
fn entry_of<'a>(ctx: &Ctx<'a>, index: usize) -> Option<&'a Entry> {
    let unsure = || ctx.devices.homes.iter().find(|(_, home)| **home == Home::Unsure(index)).map(|(id, _)| *id);
    let id = ctx.devices.groups[index].entry.or_else(unsure)?;
    ctx.s.entries.get(id)
}

/// Why the device at a PV's path is not the PV's.
pub(super) fn is_of_another(pv: &PersistentVolume, device: &Device) -> Option<String> {
    let (name, identity) = (&device.kernel_name, &device.identity);
    let is_directory = matches!(device.place, Place::Directory { .. });
    if is_directory && pv.spec.volume_mode.as_deref() == Some("Block") {
        return Some(format!("its volumeMode is Block, and {name} is a directory"));
    }
    if annotated_identity(pv, device) == Comparison::Different {
        return Some(format!("its identity annotation is not that of {name} ({identity})"));
    }
    (pv.status.phase != Phase::Released && names_another(pv, device))
        .then(|| format!("its identity annotation has nothing in common with {name}"))
}

/// A PV that an entry holds, whose path leads to another device than that entry's: its tenant may write to this one.
pub(super) fn strayed_pv(ctx: &mut Ctx<'_>, pv: &PersistentVolume, entry: &Entry) {
    let Some(index) = ctx.devices.at_path(path_of(pv)) else { return };
    let at_home = match ctx.devices.home(&entry.id) {
        Home::Here(home) | Home::Unsure(home) => *home == index,
        // Of two that cannot be told apart it may be either.
        Home::Ambiguous(_) => true,
        Home::Silent(_) | Home::Absent => false,
    };
    if !at_home {
        let why = format!("PersistentVolume {}, which is another device's, led to it while in use", pv.metadata.name);
        remember_use(ctx, pv, index, None, why);
    }
}

/// Whoever uses a volume may leave something on the device to which its path leads. When that PV is gone, what lies there is
/// not an administrator's: the ledger must know.
fn remember_use(ctx: &mut Ctx<'_>, pv: &PersistentVolume, index: usize, recorded: Option<PvRef>, why: String) {
    let group = &ctx.devices.groups[index];
    let place = group.device.place;
    let existing = entry_of(ctx, index);
    // Also where its entry has no home: it has a twin, or its filesystem another size by now.
    let is_its = |entry: &Entry| {
        let there = memory::place_in_boot(&entry.evidence, &ctx.s.boot_id) == Some(place);
        there && entry.evidence.identity == group.device.identity && matches!(entry.state, State::Quarantined { .. })
    };
    let remembered = existing.is_some_and(|entry| devices::matters(&entry.state)) || ctx.s.entries.values().any(is_its);
    let busy = existing.is_some_and(|entry| ctx.s.jobs.contains_key(&entry.id))
        || ctx.plan.writes.iter().any(|write| write.evidence.place == place);
    // A discovery directory's, under whatever name the volume leads to it. A raw device that holds data is refused anyway, or
    // taken, as the settings say.
    let mut names = std::iter::once(path_of(pv)).chain(group.paths.iter().copied());
    let Some(path) = names.find(|path| ctx.discovered(path).is_some()).map(Path::to_path_buf) else { return };
    if remembered || busy || !is_used(pv) {
        return;
    }
    let state = State::Quarantined { nonce: ctx.nonce(), why, pv: recorded };
    match existing {
        Some(entry) => replace(ctx, entry, index, &path, state),
        None => ctx.new_entry(index, &path, state),
    }
}

/// The same where a look has found nothing at its path: what appears there, or anywhere, may be its device.
fn remember_absent(ctx: &mut Ctx<'_>, pv: &PersistentVolume, why: String) {
    let path = path_of(pv);
    let looked_at = ctx.s.scan.as_ref().is_some_and(|scan| scan.observations.contains_key(path));
    let concerns_us = is_used(pv) && discovery::is_of_node(ctx.s, pv);
    let Some(name) = path.file_name().filter(|_| concerns_us) else { return };
    if !looked_at || !ctx.s.looked_through_directories() {
        return;
    }
    let annotation = pv.metadata.annotations.get(names::IDENTITY_ANNOTATION);
    let identity = annotation.and_then(|text| Identity::from_annotation(text)).unwrap_or_default();
    // What another entry is about is remembered there.
    let speaks = |entry: &Entry| {
        let of_it = entry.path == path || entry.state.pv_name() == Some(&pv.metadata.name);
        of_it && devices::matters(&entry.state) && entry.evidence.identity.compare(&identity) != Comparison::Different
    };
    if ctx.s.entries.values().chain(&ctx.plan.writes).any(speaks) {
        return;
    }
    let class = ctx.s.discovery_settings().and_then(|settings| settings.classes.get(&pv.spec.storage_class_name));
    let at = class.map_or_else(|| path.to_path_buf(), |class| class.mount_dir.join(name));
    let discovered = Discovered { class: pv.spec.storage_class_name.clone(), at };
    let state = State::Quarantined { nonce: ctx.nonce(), why, pv: Some(reference(pv)) };
    ctx.first_entry(path, Some(discovered), Evidence::unseen(identity), state);
}

fn is_used(pv: &PersistentVolume) -> bool {
    let claimed = pv.spec.claim_ref.as_ref().is_some_and(|claim| !claim.uid.is_empty());
    claimed || !matches!(pv.status.phase, Phase::Available | Phase::Unset | Phase::Pending)
}

/// Whether it is the PV that an offer made, whose answer has not come.
fn is_awaited(ctx: &Ctx<'_>, pv: &PersistentVolume) -> bool {
    ctx.offers.get(pv.metadata.name.as_str()).is_some_and(|entry| match &entry.state {
        State::Offering { offer_id, .. } => pv.metadata.annotations.get(names::OFFER_ANNOTATION) == Some(offer_id),
        _ => false,
    })
}

fn leave(ctx: &mut Ctx<'_>, pv: &PersistentVolume, state: Word, why: String) {
    let path = path_of(pv);
    let selected = ctx.devices.at_path(path).is_some_and(|i| !ctx.devices.groups[i].selected.is_empty());
    let next = match state {
        Word::Foreign => Some("remove the label if the PersistentVolume is not this agent's".to_owned()),
        Word::Absent | Word::Error => {
            Some(format!("bring its own device to its path, or kubectl delete pv {} when it is free", pv.metadata.name))
        }
        _ => None,
    };
    ctx.push(Report {
        path: path.into(),
        state,
        pv: Some(pv.metadata.name.clone()),
        reason: format!("PersistentVolume {} ({:?}): {why}", pv.metadata.name, pv.status.phase),
        next,
        size: None,
        identity: None,
        progress: None,
        selected,
        event: None,
    });
}

/// Whether a PV has the shape that we, or the original, give: label, name, path below its own `deviceDir`, filter,
/// class and mode as its annotations say.
pub(super) fn is_ours(s: &Snapshot, pv: &PersistentVolume) -> Result<(), String> {
    if discovery::is_discovered(pv) {
        return discovery::is_ours(s, pv);
    }
    let path = plain_path(pv)?.display().to_string();
    if pv.metadata.labels.get(names::NODE_LABEL) != Some(&s.node_label()) {
        return Err("its node label is not this node's".to_owned());
    }
    let name = volume::pv_name(&s.node_name, Path::new(&path));
    if name.as_deref() != Some(pv.metadata.name.as_str()) {
        return Err(format!("its name is not the one of {path} ({})", name.unwrap_or_default()));
    }
    let owned = pv.metadata.owner_references.iter().any(|owner| owner.kind == "Node" && owner.name == s.node_name);
    if !owned {
        return Err("it is not owned by this Node".to_owned());
    }
    let its_own = Settings::from_annotations(&pv.metadata.annotations);
    let Some(settings) = its_own.as_ref().or(s.settings()) else {
        return Err("its annotations do not say with which settings it was made".to_owned());
    };
    let base = Path::new(&path).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if !Path::new(&path).starts_with(&settings.selection.device_dir) || !settings.selection.filter.is_match(base) {
        return Err(format!("{path} is not what its settings select ({}, {})", settings.device_dir, settings.filter));
    }
    if pv.spec.storage_class_name != settings.storage_class {
        return Err(format!("its class {} is not the one in its annotations", pv.spec.storage_class_name));
    }
    if pv.spec.volume_mode.as_deref().unwrap_or("Filesystem") != settings.mode.as_str() {
        return Err("its volumeMode is not the one in its annotations".to_owned());
    }
    Ok(())
}

/// The path that a PV names, if nothing in it can lead elsewhere as text.
pub(super) fn plain_path(pv: &PersistentVolume) -> Result<&Path, String> {
    let path = pv.spec.local.as_ref().map(|local| Path::new(&local.path)).ok_or("it is no local volume")?;
    let plain = path.is_absolute() && path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
    if plain { Ok(path) } else { Err(format!("its path {} is not absolute and plain", path.display())) }
}

/// What a PV's identity annotation says of a device; the original's PVs have none (`Unknown`).
pub(super) fn annotated_identity(pv: &PersistentVolume, device: &Device) -> Comparison {
    pv.metadata
        .annotations
        .get(names::IDENTITY_ANNOTATION)
        .map_or(Comparison::Unknown, |annotation| memory::annotation_matches(annotation, device))
}

/// Whether strong facts are annotated and the device shows none of them: it may be another one in the same place.
fn names_another(pv: &PersistentVolume, device: &Device) -> bool {
    let annotation = pv.metadata.annotations.get(names::IDENTITY_ANNOTATION);
    let strong =
        annotation.and_then(|text| Identity::from_annotation(text)).is_some_and(|identity| !identity.is_weak());
    strong && annotated_identity(pv, device) != Comparison::Same
}

enum Verdict {
    Believed,
    Quarantine(String),
    Wait(String),
}

/// SAFETY section 3, adoption of a PV first seen Released.
fn release_is_believed(ctx: &Ctx<'_>, pv: &PersistentVolume, index: usize) -> Verdict {
    let first_seen = "it was Released before this node knew it";
    if ctx.ledger_is_whole() && !ctx.s.first_start {
        // A memory that is whole knows every volume that this node offered: this one it did not. One that begins with this
        // start knows nothing of what the original offered.
        return Verdict::Quarantine(format!("{first_seen}, though its ledger is whole"));
    }
    let Some(node) = ctx.s.existing_node() else {
        return Verdict::Wait(format!("{first_seen}; waiting for the Node"));
    };
    let owned = if discovery::is_discovered(pv) {
        // Its class is in the settings, or it would not be ours.
        discovery::was_provisioned_on(pv, node)
    } else {
        let Some(settings) = ctx.s.settings() else {
            return Verdict::Wait(format!("{first_seen}; waiting for the settings"));
        };
        if let Some(mismatch) = settings.mismatch(&pv.metadata.annotations) {
            return Verdict::Quarantine(format!("{first_seen}, and was made with other settings ({mismatch})"));
        }
        pv.metadata.owner_references.iter().any(|owner| owner.uid == node.metadata.uid)
    };
    if !owned {
        return Verdict::Quarantine(format!("{first_seen}, and belongs to an earlier Node object of this name"));
    }
    let device = ctx.devices.groups[index].device;
    match pv.metadata.annotations.get(names::IDENTITY_ANNOTATION) {
        Some(_) if annotated_identity(pv, device) == Comparison::Same => Verdict::Believed,
        Some(_) => Verdict::Quarantine(format!("{first_seen}, and its recorded identity does not prove the device")),
        None if created_since_boot(ctx.s, pv) => Verdict::Believed,
        None => Verdict::Quarantine(format!(
            "{first_seen}, has no recorded identity, and was made before this boot: its path may lead to another device now"
        )),
    }
}

fn created_since_boot(s: &Snapshot, pv: &PersistentVolume) -> bool {
    pv.metadata
        .creation_timestamp
        .as_deref()
        .and_then(|text| humantime::parse_rfc3339(text).ok())
        .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok())
        .is_some_and(|created| created.as_secs() > s.booted_at)
}

/// What a PV in service should carry.
pub(super) struct Wanted {
    pub labels: FlatMap<String, String>,
    /// Where they are missing: what an annotation says is what it was made with.
    pub annotations: Vec<(&'static str, String)>,
    pub owner: Option<OwnerReference>,
    /// `None`: as it is.
    pub capacity: Option<String>,
}

impl Wanted {
    pub fn of_raw_device(s: &Snapshot, node: &Node, device: &Device) -> Wanted {
        let label = s.node_label();
        Wanted {
            labels: [names::NODE_LABEL, names::NODE_LABEL_IO].map(|key| (key.to_owned(), label.clone())).into(),
            annotations: vec![(names::IDENTITY_ANNOTATION, device.identity.to_annotation())],
            owner: Some(volume::owner(node)),
            capacity: Some(quantity::format_binary(device.size)),
        }
    }
}

/// The merge patch that makes labels, annotations, capacity and owner what they should be; `None` if they are.
/// Settings annotations are never changed: they say what the PV was made with.
pub(super) fn repair_patch(pv: &PersistentVolume, device: &Device, wanted: Wanted) -> Option<Value> {
    let mut metadata = Map::new();
    let labels: Map<String, Value> = (wanted.labels.iter())
        .filter(|(key, value)| pv.metadata.labels.get(key.as_str()) != Some(*value))
        .map(|(key, value)| (key.clone(), json!(value)))
        .collect();
    if !labels.is_empty() {
        metadata.insert("labels".to_owned(), labels.into());
    }
    let missing = wanted.annotations.into_iter().filter(|(key, _)| !pv.metadata.annotations.contains_key(*key));
    let annotations: Map<String, Value> = missing.map(|(key, value)| (key.to_owned(), json!(value))).collect();
    if !annotations.is_empty() {
        metadata.insert("annotations".to_owned(), annotations.into());
    }
    let owners = &pv.metadata.owner_references;
    if let Some(owner) = wanted.owner
        && !owners.iter().any(|existing| existing.uid == owner.uid)
    {
        let others = owners.iter().filter(|existing| existing.kind != "Node" || existing.name != owner.name);
        let all: Vec<_> = others.cloned().chain([owner.clone()]).collect();
        metadata.insert("ownerReferences".to_owned(), json!(all));
    }
    let mut patch = Map::new();
    let capacity = quantity::parse(&pv.spec.capacity.storage);
    if let Some(wanted) = wanted.capacity
        && capacity != quantity::parse(&wanted)
        && device.size > 0
    {
        patch.insert("spec".to_owned(), json!({"capacity": {"storage": wanted}}));
    }
    if metadata.is_empty() && patch.is_empty() {
        return None;
    }
    metadata.insert("uid".to_owned(), json!(pv.metadata.uid));
    metadata.insert("resourceVersion".to_owned(), json!(pv.metadata.resource_version));
    patch.insert("metadata".to_owned(), metadata.into());
    Some(patch.into())
}
