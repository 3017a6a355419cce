//! Names of the sig-storage local static provisioner: of PersistentVolumes, and of the provisioner itself. They decide
//! which existing PersistentVolumes are ours. Nothing here looks at the cluster.

use super::names::short_hash;

/// Every provisioner's name begins with it; the Node's name follows.
const PROVISIONER: &str = "local-volume-provisioner-";
const PV: &str = "local-pv-";

/// The original's name for the volume of an entry: `local-pv-` and a 32-bit hash, in which different volumes collide.
pub fn pv_name(entry: &str, node: &str, class: &str) -> String {
    format!("{PV}{:x}", fnv1a32(&[entry, node, class]))
}

/// For a volume whose [`pv_name`] another one has: the same name, and 80 bits of a hash that tells the parts apart.
pub fn longer_pv_name(entry: &str, node: &str, class: &str) -> String {
    /// Of 100,000 volumes two share 80 bits once in 10^14 clusters.
    const HEX_DIGITS: usize = 20;
    // No part has a slash in it.
    let whole = format!("{entry}/{node}/{class}");
    format!("{}-{}", pv_name(entry, node, class), short_hash(whole.as_bytes(), HEX_DIGITS))
}

/// The original's name for the Job that cleans a volume.
pub fn job_name(pv: &str) -> String {
    format!("cleanup-{pv}")
}

/// The original's name for the directory's mount in such a Job.
pub fn mount_name(host_dir: &str, mount_dir: &str) -> String {
    format!("mount-{:x}", fnv1a32(&[host_dir, mount_dir]))
}

/// What the annotation `pv.kubernetes.io/provisioned-by` of this node's volumes says.
pub fn provisioner_name(node: &str, uid: &str, node_name_only: bool) -> String {
    if node_name_only { format!("{PROVISIONER}{node}") } else { format!("{PROVISIONER}{node}-{uid}") }
}

/// Whether an annotation `pv.kubernetes.io/provisioned-by` names this node, with whatever UID it had, or with none.
/// A UID is a UUID here, as API servers give them; the Node `a-<UUID>` would be taken for `a`: compare the affinity too.
pub fn is_provisioner_of(annotation: &str, node: &str) -> bool {
    match annotation.strip_prefix(PROVISIONER).and_then(|rest| rest.strip_prefix(node)) {
        Some("") => true,
        Some(rest) => rest.strip_prefix('-').is_some_and(is_uid),
        None => false,
    }
}

/// A UUID as API servers write it: what follows the name is else the rest of another Node's name.
fn is_uid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && groups.iter().all(|group| group.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Of the parts one after another, with nothing between them: the original's.
fn fnv1a32(parts: &[&str]) -> u32 {
    const OFFSET: u32 = 0x811c_9dc5;
    const PRIME: u32 = 0x0100_0193;
    parts.iter().flat_map(|part| part.bytes()).fold(OFFSET, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::names::is_object_name;

    /// Printed by the original.
    #[test]
    fn volumes_are_named_as_the_original_names_them() {
        for (entry, node, class, name) in [
            ("vol1", "node-1", "fast-disks", "local-pv-457091be"),
            ("vol2", "node-1", "fast-disks", "local-pv-2f8f11e3"),
            ("vol6", "node-1", "fast-disks", "local-pv-17f2217"),
            ("ssd0", "n1", "local-storage", "local-pv-47db1801"),
            ("a", "bc", "d", "local-pv-ce3479bd"),
            ("ab", "c", "d", "local-pv-ce3479bd"),
            ("mount1", "test-node", "sc1", "local-pv-aaaafef5"),
        ] {
            assert_eq!(pv_name(entry, node, class), name);
        }
    }

    #[test]
    fn a_longer_name_tells_apart_what_collides_and_is_valid_for_any_entry() {
        assert_eq!(pv_name("a", "bc", "d"), pv_name("ab", "c", "d"));
        assert_ne!(longer_pv_name("a", "bc", "d"), longer_pv_name("ab", "c", "d"));
        for entry in ["vol1", "with space", "Ünïcode_", &"d".repeat(255)] {
            let name = longer_pv_name(entry, "node-1", "fast-disks");
            assert!(is_object_name(&name) && name.len() <= 63, "{name}");
            assert!(name.starts_with(&pv_name(entry, "node-1", "fast-disks")));
            assert_eq!(name, longer_pv_name(entry, "node-1", "fast-disks"));
        }
    }

    const UID: &str = "0f3c2a4e-95a1-4c51-8f3e-6d0f2b7a9c11";

    #[test]
    fn a_provisioner_is_known_by_its_node_with_and_without_a_uid_and_after_the_uid_changed() {
        let with = provisioner_name("node-1", UID, false);
        assert_eq!(with, format!("local-volume-provisioner-node-1-{UID}"));
        let without = provisioner_name("node-1", UID, true);
        assert_eq!(without, "local-volume-provisioner-node-1");
        let former = provisioner_name("node-1", "7d1b6c1a-0000-4000-8000-6d0f2b7a9c11", false);
        for name in [&with, &without, &former] {
            assert!(is_provisioner_of(name, "node-1"), "{name}");
            assert!(!is_provisioner_of(name, "node"), "{name}");
            assert!(!is_provisioner_of(name, "node-11"), "{name}");
        }
        assert!(!is_provisioner_of("local-volume-provisioner-node-1-2", "node-1"), "the Node node-1-2");
        assert!(!is_provisioner_of(&provisioner_name("node-1-2", UID, false), "node-1"));
        assert!(!is_provisioner_of("rancher.io/local-path", "node-1") && !is_provisioner_of("", ""));
    }
}
