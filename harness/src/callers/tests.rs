//! What is found in small files of C, and that no file is too broken.

use super::*;

const MEMBERS: [&str; 2] = ["pgmap_owner", "src_owner"];

/// Callers as `line function: owner`.
fn found(text: &str) -> Vec<String> {
    let owner = |owner| match owner {
        Owner::Set { expression, line } => format!("{expression} at {line}"),
        Owner::Null { line } => format!("NULL at {line}"),
        Owner::NotSet => "not set".to_owned(),
        Owner::Elsewhere(said) => format!("elsewhere: {said}"),
    };
    let callers = callers("drivers/toy/toy.c", text, &MEMBERS).into_iter();
    callers.map(|c| format!("{} {}: {}", c.line, c.function, owner(c.owner))).collect()
}

/// What is said of the call in the body of a function, for each line of a
/// table of `body => owner`; the names that are in every line are short.
fn check(table: &str) {
    for line in table.lines().filter(|line| !line.trim().is_empty()) {
        let (body, expect) = line.split_once("=>").expect("a line of the table");
        let body = body.replace("MIG", "struct migrate_vma").replace("GO(", "migrate_vma_setup(");
        let text = format!("static int toy(struct toy *toy) {{ {body} }}");
        assert_eq!(found(&text), [format!("1 toy: {}", expect.trim())], "{body}");
    }
}

#[test]
fn the_struct_is_made_in_the_function() {
    check(
        r"
        MIG m = { .vma = v, .src_owner = toy->dev }; return GO(&m); => toy->dev at 1
        MIG m = { 0 }; m.pgmap_owner = whose(toy, 1); if (GO(&m)) return; => whose(toy, 1) at 1
        MIG m = {}, *p = &m; p->pgmap_owner = toy; GO(&m); => toy at 1
        MIG m = {}, *p = &m; m.pgmap_owner = toy; GO(p); => toy at 1
        MIG *p = kzalloc(sizeof(*p), 0); (*p).src_owner = toy; GO(p); => toy at 1
        GO(&(MIG){ .pgmap_owner = toy }); => toy at 1
        MIG m; m = (MIG){ .pgmap_owner = toy }; WARN_ON(GO(&m)); => toy at 1
        MIG *p = kmalloc(8, 0); *p = (MIG){ .src_owner = toy }; GO(p); => toy at 1
        MIG m = { 0 }; m.vma = v; GO(&m); => not set
        MIG m; memset(&m, 0, sizeof(m)); GO(&m); => not set
        MIG m; GO(&m); => not set
        MIG *m = kvzalloc(8, 0); GO(m); => not set
        GO(&(MIG){ .vma = v }); => not set
        MIG m = { .src = s }; if (m.src_owner == toy) GO(&m); => not set
        MIG m = {}, n = {}; n.src_owner = toy; GO(&m); => not set
        MIG m = {}; toy->m.src_owner = toy; GO(&m); => not set
        MIG m = { .pgmap_owner = NULL }; GO(&m); => NULL at 1
        MIG m = {}; m.src_owner = (void *)0; GO(&m); => NULL at 1
        MIG m = {}; m.src_owner = toy ? toy : NULL; GO(&m); => toy ? toy : NULL at 1
        MIG m = {}; m.src_owner = whose(NULL); GO(&m); => whose(NULL) at 1",
    );
}

#[test]
fn what_is_on_the_way_to_the_call_counts() {
    check(
        r"
        MIG m = {}; if (a) m.src_owner = x; else m.src_owner = y; GO(&m); => x at 1
        MIG m = { .src_owner = NULL }; if (a) { m.src_owner = x; } GO(&m); => x at 1
        MIG m; m.src_owner = x; m.src_owner = y; GO(&m); => y at 1
        MIG m; m.src_owner = x; memset(&m, 0, sizeof(m)); GO(&m); => not set
        MIG m = {}; GO(&m); m.src_owner = x; => not set
        MIG m = {}; if (a) { m.src_owner = x; } else { GO(&m); } => not set
        MIG m = {}; if (a) { m.src_owner = x; } else { b(); } GO(&m); => x at 1
        MIG m = {}; if (a) { m.src_owner = x; return 0; } GO(&m); => not set
        MIG m = {}; switch (a) { case 1: m.src_owner = x; break; case 2: GO(&m); } => not set
        { MIG m = { .src_owner = x }; } { MIG m = {}; GO(&m); } => not set",
    );
}

#[test]
fn a_struct_may_be_part_of_another() {
    check(
        r"
        struct job j = { .m = { .vma = v, .src_owner = toy } }; GO(&j.m); => toy at 1
        struct job j = { .m.src_owner = toy }; GO(&j.m); => toy at 1
        struct job j = { .src_owner = toy }; GO(&j.m); => not set
        struct job *j = kmalloc(8, 0); j->m.src_owner = toy; GO(&j->m); => toy at 1
        struct job *j = kzalloc(8, 0); MIG *m = &j->m; GO(m); => not set
        struct job *j = job_of(toy); GO(&j->m); => elsewhere: &j->m
        toy->m[i].src_owner = toy; GO(&toy->m[i]); => toy at 1",
    );
}

#[test]
fn what_cannot_be_decided_is_said() {
    check(
        r"
        GO(next_job(toy)); => elsewhere: next_job(toy)
        GO(&toy->m); => elsewhere: &toy->m
        MIG m = {}; prepare(&m, toy); GO(&m); => elsewhere: &m, after prepare()
        MIG m = MADE(toy); GO(&m); => elsewhere: &m, from MADE(toy)
        MIG m = { ALL(toy), .vma = v }; GO(&m); => elsewhere: &m, from { ALL(toy) }",
    );
}

#[test]
fn other_functions_of_the_file_are_looked_at() {
    let helper =
        "static int go(int n, struct migrate_vma *m)\n{\n\treturn migrate_vma_setup(m);\n}\n";
    let above = |bodies: &[&str]| {
        let above =
            |(n, body): (usize, &&str)| format!("void f{n}(struct toy *toy) {{ {body} }}\n");
        found(&(helper.to_owned() + &bodies.iter().enumerate().map(above).collect::<String>()))
    };
    let sets = "struct migrate_vma m = { .src_owner = toy }; go(1, &m);";
    let lacks = "struct migrate_vma m = { .vma = v }; go(1, &m);";
    let passes = "go(1, &toy->m);";
    assert_eq!(above(&[]), ["3 go: elsewhere: m"]);
    assert_eq!(above(&[sets]), ["3 go: toy at 5"]);
    assert_eq!(above(&[sets, lacks, passes]), ["3 go: not set"]);
    assert_eq!(above(&[sets, passes]), ["3 go: elsewhere: m, which f1() gives as &toy->m"]);
    // And one that is called first may set it.
    let filled = "static void fill(struct toy *toy, struct migrate_vma *args)\n{\n\
                  \targs->pgmap_owner = toy->dev;\n}\n\
                  int run(struct toy *toy)\n{\n\tstruct migrate_vma m = { 0 };\n\n\
                  \tfill(toy, &m);\n\treturn migrate_vma_setup(&m);\n}\n";
    assert_eq!(found(filled), ["10 run: toy->dev at 3"]);
    // A struct around it is given.
    let around = "static int go(struct job *job)\n{ return migrate_vma_setup(&job->m); }\n\
                  int run(void)\n{ struct job job = { .m.src_owner = us }; return go(&job); }";
    assert_eq!(found(around), ["2 go: us at 4"]);
}

#[test]
fn only_calls_in_functions_are_calls() {
    let text = r#"
int migrate_vma_setup(struct migrate_vma *args);
/* migrate_vma_setup(&a); */
#define GO(m) \
	migrate_vma_setup(m)
int migrate_vma_setup(struct migrate_vma *args)
{
	return args->vma ? 0 : -1; // migrate_vma_setup(args)
}
EXPORT_SYMBOL(migrate_vma_setup);
static const struct ops ops = {
	.setup = migrate_vma_setup,
};
static void none(void)
{
	say("migrate_vma_setup(&m) \" failed");
	ops->migrate_vma_setup(&m);
	migrate_vma_setup_all(&m);
#if 0
	don't migrate_vma_setup(&m);
#endif
}
"#;
    assert!(mentions(text) && found(text).is_empty(), "{:?}", found(text));
    assert!(!mentions("int migrate_vma_pages(void);"));
}

#[test]
fn functions_are_named_however_they_are_written() {
    for (header, name) in [
        ("static vm_fault_t toy_fault(struct vm_fault *vmf)", "toy_fault"),
        ("int\ntoy_run(struct toy *toy,\n\tunsigned long end)", "toy_run"),
        ("static __printf(1, 2) int __toy_run(const char *why, ...)", "__toy_run"),
        ("static __attribute__((noinline)) void\ntoy_run(void)", "toy_run"),
        ("static int __attribute__((cold)) toy_run(void)", "toy_run"),
        ("static int toy_run(struct toy *t)\n\t__must_hold(&t->lock)", "toy_run"),
        ("MODULE_THING(x)\nstatic struct toy *toy_run(void (*done)(int a))", "toy_run"),
        ("SYSCALL_DEFINE2(toy, int, a, int, b)", "toy"),
        ("#ifdef TOY\nint toy_run(int a)\n{\n#else\nint toy_run(void)\n{\n#endif\n", "toy_run"),
    ] {
        let text =
            format!("struct s {{\n\tint a;\n}};\n{header}\n{{\n\tmigrate_vma_setup(x);\n}}\n");
        let text = text.replace("#endif\n\n{", "#endif\n");
        let callers = callers("toy.c", &text, &MEMBERS);
        let names: Vec<&str> = callers.iter().map(|c| c.function.as_str()).collect();
        assert_eq!(names, [name], "{text}");
    }
}

const LONG: &str = r#"
static vm_fault_t toy_fault(struct vm_fault *vmf)
{
	struct toy *toy = toy_of(vmf->page); /* as the page
		says } */
	struct migrate_vma m = {
		.vma	= vmf->vma,	// "
		.start	= vmf->address,
		.pgmap_owner	= toy_owner(toy,
					    TOY_RAM),
	};
#ifdef TOY_LOCK
	if (toy_lock(toy)) {
#else
	if (1) {
#endif
		say('"', "{ \" é");
		if (migrate_vma_setup(&m) < 0)
			return VM_FAULT_SIGBUS;
	}
	return 0;
}

static int toy_in(struct toy *toy, struct migrate_vma *m)
{
	memset(m, 0, sizeof(*m));
	return migrate_vma_setup(m);
}
"#;

#[test]
fn lines_are_those_of_the_file() {
    let expect = ["18 toy_fault: toy_owner(toy, TOY_RAM) at 9", "27 toy_in: not set"];
    assert_eq!(found(LONG), expect);
    assert_eq!(found(&LONG.replace('\n', "\r\n")), expect);
}

#[test]
fn no_text_is_too_broken() {
    for (at, _) in LONG.char_indices() {
        callers("cut.c", &format!("{} migrate_vma_setup(", &LONG[..at]), &MEMBERS);
        callers("cut.c", &LONG[at..], &MEMBERS);
    }
    let words: Vec<&str> = "( ) [ ] { } ; , . -> = & * : \" ' \\ / /* */ // # #if #else #endif \
        #if\t0 \n \n} é if else case \
        return m p m.src_owner .src_owner .m = NULL 0 memset( kzalloc( \
        struct migrate_vma go( int\tgo(int\tm){ migrate_vma_setup( migrate_vma_setup(&m) (*p)"
        .split(' ')
        .collect();
    // Xorshift, so that what fails once fails again.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..5_000 {
        let mut text = String::from("int f(int m)\n{");
        for _ in 0..state % 60 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            text.push_str(words[(state >> 33) as usize % words.len()]);
            text.push_str(if state & 64 == 0 { " " } else { "" });
        }
        state = state.wrapping_add(1);
        text.push_str(" migrate_vma_setup(&m)");
        callers("noise.c", &text, &MEMBERS);
    }
    let deep = format!("int f(int m) {{ m = {} migrate_vma_setup(m);", "{ .m = (".repeat(3_000));
    callers("deep.c", &deep, &MEMBERS);
}
