//! The config directory as users of the original have it, and what is said of mistakes.

use super::*;

fn files(files: &[(&str, &str)]) -> BTreeMap<String, String> {
    files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

fn parse(given: &[(&str, &str)]) -> Parsed {
    DiscoverySettings::parse(&files(given)).unwrap()
}

/// Of a class `fast` with both directories, and these lines.
fn class(lines: &[&str]) -> Class {
    let mut parsed = parse(&[("storageClassMap", &class_file(lines))]);
    assert_eq!(parsed.warnings, Vec::<String>::new());
    parsed.settings.classes.remove("fast").unwrap()
}

fn class_file(lines: &[&str]) -> String {
    let mut text = "fast:\n".to_owned();
    for line in ["hostDir: /mnt/fast", "mountDir: /mnt/fast"].iter().chain(lines) {
        text += &format!("  {line}\n");
    }
    text
}

/// The messages, sorted by place.
fn errors(given: &[(&str, &str)]) -> Vec<String> {
    DiscoverySettings::parse(&files(given)).unwrap_err().iter().map(ToString::to_string).collect()
}

fn error(file: &str, text: &str) -> String {
    let mut errors = errors(&[(file, text)]);
    assert_eq!(errors.len(), 1, "{errors:?}");
    errors.remove(0)
}

/// Section 2 of the reference: the example of the original's documentation with every key.
const EXAMPLE: [(&str, &str); 7] = [
    ("nodeLabelsForPV", "- kubernetes.io/hostname\n- topology.kubernetes.io/zone\n"),
    ("labelsForPV", "owner : storage-team\n"),
    ("useNodeNameOnly", "true"),
    ("setPVOwnerRef", "true"),
    ("useJobForCleaning", "yes"),
    ("jobTolerations", "- key: dedicated\n  operator: Exists\n"),
    (
        "storageClassMap",
        r#"fast-disks:
  hostDir: /mnt/fast-disks
  mountDir: /mnt/fast-disks
  volumeMode: Filesystem
  fsType: ext4
  namePattern: "nvme*,ssd*"
raw-disks:
  hostDir: /mnt/raw
  mountDir: /mnt/raw
  volumeMode: Block
  accessMode: ReadWriteOnce
  blockCleanerCommand: ["/scripts/shred.sh", "2"]
  selector:
    - matchExpressions:
        - {key: kubernetes.io/hostname, operator: In, values: [node2]}
"#,
    ),
];

#[test]
fn the_originals_example_is_read_key_for_key() {
    let parsed = parse(&EXAMPLE);
    assert_eq!((parsed.warnings.len(), parsed.refused.len()), (0, 0));
    let settings = parsed.settings;
    assert_eq!(settings.node_labels_for_pv, ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]);
    assert_eq!(settings.labels_for_pv, [("owner".to_owned(), "storage-team".to_owned())].into());
    assert!(settings.use_node_name_only && settings.set_pv_owner_ref && settings.use_job_for_cleaning);
    assert_eq!(settings.job_tolerations, [serde_json::json!({"key": "dedicated", "operator": "Exists"})]);
    let fast = &settings.classes["fast-disks"];
    assert_eq!((fast.mode, fast.fs_type.as_deref()), (Mode::Filesystem, Some("ext4")));
    assert!(fast.names.matches("nvme1") && fast.names.matches("ssd") && !fast.names.matches("sda"));
    let raw = &settings.classes["raw-disks"];
    assert_eq!((raw.mode, raw.access_mode.as_str(), raw.fs_type.as_deref()), (Mode::Block, "ReadWriteOnce", None));
    assert_eq!(raw.block_cleaner_command, ["/scripts/shred.sh", "2"]);
    assert_eq!(raw.block_cleaner, Cleaner::Shred { passes: 2 });
    let requirement = &raw.selector[0].match_expressions[0];
    assert_eq!((requirement.key.as_str(), requirement.operator.as_str()), ("kubernetes.io/hostname", "In"));
    assert_eq!(requirement.values, ["node2"]);
    let dirs = settings.directories();
    assert_eq!(
        (dirs.len(), dirs[1].class.as_str(), dirs[1].mount_dir.as_path()),
        (2, "raw-disks", Path::new("/mnt/raw"))
    );
}

#[test]
fn what_is_not_given_has_the_originals_default() {
    let settings = parse(&[]).settings;
    assert_eq!(settings.min_resync_period, Duration::from_secs(300));
    assert!(settings.classes.is_empty() && settings.node_labels_for_pv.is_empty() && settings.labels_for_pv.is_empty());
    let flags = [settings.use_alpha_api, settings.use_job_for_cleaning, settings.use_node_name_only];
    assert_eq!(flags, [false; 3]);
    assert!(!settings.set_pv_owner_ref && !settings.remove_node_not_ready_taint);
    assert_eq!((settings.not_ready_taint_key.as_str(), settings.job_tolerations.len()), ("", 0));
    // An empty text, or nothing, is the default too.
    for lines in [&[][..], &["volumeMode: ''", "accessMode: ''", "namePattern: ''", "fsType: ''", "selector:"]] {
        let fast = class(lines);
        assert_eq!(
            (fast.mode, fast.access_mode.as_str(), fast.fs_type.clone()),
            (Mode::Filesystem, "ReadWriteOnce", None)
        );
        assert!(fast.names.matches("anything") && fast.selector.is_empty());
        assert_eq!(
            (&fast.block_cleaner_command[..], &fast.block_cleaner),
            (&["/scripts/quick_reset.sh".to_owned()][..], &Cleaner::QuickReset)
        );
    }
}

#[test]
fn files_without_a_value_are_as_if_they_were_not_there() {
    let empty: Vec<(&str, &str)> = KEYS.iter().filter(|key| **key != "minResyncPeriod").map(|key| (*key, "")).collect();
    assert_eq!(parse(&empty), parse(&[]));
}

#[test]
fn keys_and_sub_keys_are_read_in_any_case() {
    let parsed = parse(&[
        ("STORAGECLASSMAP", "fast: {HOSTDIR: /a, mountdir: /b, VolumeMode: Block}"),
        ("usealphaapi", "on"),
        ("jobtolerations", "[{KEY: k}]"),
    ]);
    assert_eq!(parsed.warnings, Vec::<String>::new());
    assert_eq!(parsed.settings.classes["fast"].mode, Mode::Block);
    assert!(parsed.settings.use_alpha_api);
    assert_eq!(parsed.settings.job_tolerations, [serde_json::json!({"key": "k"})]);
}

#[test]
fn a_key_given_twice_is_taken_as_go_takes_it() {
    // The same key: the last holds. In other case: in the order of their bytes; maps grow together.
    assert_eq!(class(&["fsType: ext4", "fsType: xfs"]).fs_type.as_deref(), Some("xfs"));
    assert_eq!(class(&["fstype: xfs", "fsType: ext4"]).fs_type.as_deref(), Some("xfs"));
    let parsed = parse(&[
        ("StorageClassMap", "a: {hostDir: /a, mountDir: /a}\nb: {hostDir: /b, mountDir: /b}"),
        ("storageClassMap", "b: {hostDir: /c, mountDir: /c}"),
        ("useAlphaApi", "yes"),
        ("useAlphaAPI", "no"),
    ]);
    assert_eq!(parsed.settings.classes.keys().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(parsed.settings.classes["b"].host_dir, Path::new("/c"));
    assert!(parsed.settings.use_alpha_api, "useAlphaApi comes after useAlphaAPI");
}

#[test]
fn unknown_keys_and_sub_keys_are_ignored_and_named() {
    let parsed = parse(&[
        ("storageClasMap", "{"),
        ("storageClassMap", &class_file(&["hostdirs: /x", "selector: [{matchLabels: {}}]"])),
        ("jobTolerations", "[{key: a, keys: b}]"),
    ]);
    let named: Vec<&str> = parsed.warnings.iter().filter_map(|warning| warning.split(": ").next()).collect();
    assert_eq!(
        named,
        [
            "storageClasMap",
            "storageClassMap.fast.hostdirs",
            "storageClassMap.fast.selector[0].matchLabels",
            "jobTolerations[0].keys"
        ]
    );
}

#[test]
fn scalars_become_texts_as_in_the_original() {
    let settings = parse(&[
        ("labelsForPV", "owner: 5\nn: yes\nversion: 1.20\nempty:\nquoted: '010'\noctal: 010\n"),
        ("nodeLabelsForPV", "[5, on]"),
        ("provisionerNotReadyNodeTaintKey", "7"),
        ("jobTolerations", "[{key: 1, value: true, tolerationSeconds: 30}]"),
    ])
    .settings;
    let labels: Vec<(&str, &str)> = settings.labels_for_pv.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(
        labels,
        [("empty", ""), ("false", "true"), ("octal", "8"), ("owner", "5"), ("quoted", "010"), ("version", "1.2")]
    );
    assert_eq!(settings.node_labels_for_pv, ["5", "true"]);
    assert_eq!(settings.not_ready_taint_key, "7");
    assert_eq!(settings.job_tolerations, [serde_json::json!({"key": "1", "value": "true", "tolerationSeconds": 30})]);
}

#[test]
fn every_flag_is_read_under_its_own_key_and_takes_booleans_only() {
    for key in ["useAlphaAPI", "useJobForCleaning", "useNodeNameOnly", "setPVOwnerRef", "removeNodeNotReadyTaint"] {
        let settings = parse(&[(key, "y\n")]).settings;
        let flags = [
            ("useAlphaAPI", settings.use_alpha_api),
            ("useJobForCleaning", settings.use_job_for_cleaning),
            ("useNodeNameOnly", settings.use_node_name_only),
            ("setPVOwnerRef", settings.set_pv_owner_ref),
            ("removeNodeNotReadyTaint", settings.remove_node_not_ready_taint),
        ];
        let set: Vec<&str> = flags.into_iter().filter(|(_, set)| *set).map(|(key, _)| key).collect();
        assert_eq!(set, [key]);
        for (wrong, shown) in [("1", "the number 1"), ("nope", "\"nope\""), ("\"yes\"", "\"yes\""), ("[]", "a list")] {
            let message = error(key, wrong);
            assert!(message.starts_with(key) && message.contains(shown), "{message}");
        }
    }
}

#[test]
fn the_resync_period_is_a_go_duration() {
    for (text, seconds) in [("5m0s", 300), ("\"1h\"", 3600), ("0s", 0), ("'0'", 0)] {
        assert_eq!(parse(&[("minResyncPeriod", text)]).settings.min_resync_period, Duration::from_secs(seconds));
    }
    for wrong in ["300", "0", "5x", "", "-5m", "[5m]"] {
        assert!(error("minResyncPeriod", wrong).starts_with("minResyncPeriod: "), "{wrong}");
    }
}

#[test]
fn a_mistake_in_a_class_names_class_and_key() {
    let cases: [(&[&str], &str, &str); 9] = [
        (&["volumeMode: filesystem"], "volumeMode", "\"filesystem\""),
        (&["volumeMode: [Block]"], "volumeMode", "a list"),
        (&["blockCleanerCommand: []"], "blockCleanerCommand", "empty"),
        (&["blockCleanerCommand: /scripts/shred.sh"], "blockCleanerCommand", "a list"),
        (&["blockCleanerCommand: [/scripts/shred.sh, two]"], "blockCleanerCommand", "\"two\""),
        (&["mountDir: mnt"], "mountDir", "not absolute"),
        (&["hostDir: /mnt/../etc"], "hostDir", "\"..\""),
        (&["selector: {}"], "selector", "a map"),
        (&["selector: [{matchExpressions: [{values: a}]}]"], "selector[0].matchExpressions[0].values", "a list"),
    ];
    for (lines, key, shown) in cases {
        let message = error("storageClassMap", &class_file(lines));
        assert!(message.starts_with(&format!("storageClassMap.fast.{key}: ")) && message.contains(shown), "{message}");
    }
    for text in ["fast:", "fast: {}"] {
        let missing = errors(&[("storageClassMap", text)]);
        assert_eq!(missing.len(), 2, "{missing:?}");
        assert!(missing[0].starts_with("storageClassMap.fast.hostDir: missing"), "{missing:?}");
        assert!(missing[1].starts_with("storageClassMap.fast.mountDir: missing"), "{missing:?}");
    }
    assert!(error("storageClassMap", "fast: /mnt").contains("storageClassMap.fast: wants a map"));
}

#[test]
fn all_errors_are_reported_together() {
    let errors = errors(&[
        ("storageClassMap", "a: {hostDir: a, mountDir: b, volumeMode: c, namePattern: '['}\nb: {hostDir: /b}\n"),
        ("nodeLabelsForPV", "zone"),
        ("labelsForPV", "- a"),
        ("useAlphaAPI", "maybe"),
        ("jobTolerations", "[{tolerationSeconds: long}, 5]"),
        ("minResyncPeriod", "300"),
        ("setPVOwnerRef", "{"),
        ("weakIdentity", "maybe"),
    ]);
    let keys: Vec<&str> = errors.iter().map(|error| error.split(": ").next().unwrap()).collect();
    assert_eq!(
        keys,
        [
            "setPVOwnerRef",
            "storageClassMap.a.hostDir",
            "storageClassMap.a.mountDir",
            "storageClassMap.a.volumeMode",
            "storageClassMap.b.mountDir",
            "nodeLabelsForPV",
            "labelsForPV",
            "useAlphaAPI",
            "jobTolerations[0].tolerationSeconds",
            "jobTolerations[1]",
            "minResyncPeriod",
            "weakIdentity",
            "storageClassMap.a.namePattern",
        ]
    );
}

/// As in the original, where it stops that class's scan.
#[test]
fn a_bad_name_pattern_keeps_its_own_class_from_being_looked_through_and_no_other() {
    let text = "a: {hostDir: /a, mountDir: /a, namePattern: 'x*,['}\nb: {hostDir: /b, mountDir: /b}\n";
    let parsed = parse(&[("storageClassMap", text)]);
    assert_eq!(parsed.refused.len(), 1);
    assert!(parsed.refused[0].to_string().starts_with("storageClassMap.a.namePattern: \"[\""), "{:?}", parsed.refused);
    assert!(!parsed.settings.classes["a"].names.matches("x1"), "not half of it either");
    assert!(parsed.settings.classes["b"].names.matches("x1"));
}

#[test]
fn what_will_not_work_is_warned_of() {
    let warned = |given: &[(&str, &str)]| parse(given).warnings;
    let text =
        "a: {hostDir: /mnt, mountDir: /x}\nb: {hostDir: /mnt/b/, mountDir: /x}\nc: {hostDir: /mnt2, mountDir: /xy}\n";
    let nested = warned(&[("storageClassMap", text)]);
    assert_eq!(nested.len(), 2, "{nested:?}");
    assert!(nested.iter().any(|w| w.starts_with("storageClassMap.b.hostDir: ") && w.contains("below that of a")));
    assert!(nested.iter().any(|w| w.starts_with("storageClassMap.b.mountDir: ") && w.contains("is that of a")));
    let odd = warned(&[("storageClassMap", "Odd_Name: {hostDir: /a, mountDir: /a, accessMode: RWO}")]);
    assert_eq!(odd.len(), 2, "{odd:?}");
    assert_eq!(warned(&[("removeNodeNotReadyTaint", "yes")]).len(), 1);
    let with_key = [("removeNodeNotReadyTaint", "yes"), ("provisionerNotReadyNodeTaintKey", "a/b")];
    assert_eq!(warned(&with_key), Vec::<String>::new());
}
