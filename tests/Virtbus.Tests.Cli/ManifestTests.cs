using Virtbus.Block;
using Virtbus.Daemon.Manifest;
using Virtbus.Platform;

namespace Virtbus.Tests.Cli;

public sealed class ManifestTests
{
    [Fact]
    public void All_errors_of_a_file_come_at_once_with_their_places()
    {
        const string Text = """
            adaptors: []
            adapters:
              - name: adapter0
                model: merlinn
                mac: 01:00:00:00:00:01
                parts: [net, vdap, net]
              - name: adapter0
                model: harrier
                model: merlin
                parts: [net]
              - model: merlin
                tap: this-name-is-far-too-long
              - adapter3
            disks:
              - name: disk 0
                adapter: adapter0
                memory: 64MB
              - name: disk1
                adapter: adaptr0
                memory: 64MiB
                null: 1GiB
                readonly: yes
                queues: 0
                serial: this serial number is too long
              - name: disk2
                adapter: adapter0
              - { name: disk3, adapter: adapter0, file: no/such.img, size: 5 }
            devices:
              - { module: demo, name: part, count: many, parent: nobody }
              - { module: demo, name: part }
              - { module: a_module_of_a_long_name, name: with_a_long_part_name }
              - { module: "de.mo", name: part }
            serials:
              - { name: adapter0, driver: vfio pci }
            functions:
              - { name: f0, vfio_user: no/such.sock, host: "3:0" }
              - { name: f0, simulated: scratch }
              - { name: f2, host: "03:00.1" }
              - { name: f2, vfio_user: / }
              - { name: f4 }
            modules: no/such/folder
            """;
        var error = Assert.Throws<ManifestException>(() => ManifestReader.ReadText(Text, "/manifests/m.yaml"));
        Assert.Equal(
            """
            /manifests/m.yaml:1:1: 'adaptors' is no key of a manifest. Did you mean 'adapters'? The keys are adapters, switches, joins, disks, serials, functions, devices, modules.
            /manifests/m.yaml:4:12: adapters[0].model: 'merlinn' is not right here. Did you mean 'merlin'? Write merlin or harrier.
            /manifests/m.yaml:5:10: adapters[0].mac: '01:00:00:00:00:01' is not right here. Write six pairs of hexadecimal digits with ':' between them, the first pair even (a station, not a group), for example 02:00:00:00:00:01.
            /manifests/m.yaml:6:18: adapters[0].parts[1]: 'vdap' is not right here. Did you mean 'vdpa'? Write net or vdpa.
            /manifests/m.yaml:6:24: adapters[0].parts[2]: 'net' is in the list already. Remove one of the two.
            /manifests/m.yaml:7:11: adapters[1].name: 'adapter0' is the name of the object at line 3 already. Choose another.
            /manifests/m.yaml:9:5: adapters[1]: 'model' is here a second time. Remove one of the two.
            /manifests/m.yaml:11:5: adapters[2]: an adapter has no 'name'. Add it: the device's name.
            /manifests/m.yaml:12:10: adapters[2].tap: 'this-name-is-far-too-long' is not right here. Write a network device name of at most 15 characters.
            /manifests/m.yaml:13:5: adapters[3]: 'adapter3' is not right here. Write an adapter with the keys name, model, mac, parts, ports, tap, switch, vfs, vf_profiles.
            /manifests/m.yaml:15:11: disks[0].name: 'disk 0' is not right here. Write 1 to 63 letters, digits, '_', '.' and '-', a letter or digit first.
            /manifests/m.yaml:17:13: disks[0].memory: '64MB' is not right here. Did you mean '64MiB'? Write a size such as 512KiB, 64MiB or 1GiB, or a number of bytes; a multiple of 512 up to 1024TiB.
            /manifests/m.yaml:18:5: disks[1]: a disk has exactly one of file, memory, null; this has memory, null. Keep one.
            /manifests/m.yaml:19:14: disks[1].adapter: 'adaptr0' is no adapter of this manifest. Did you mean 'adapter0'? Its adapters are adapter0.
            /manifests/m.yaml:22:15: disks[1].readonly: 'yes' is not right here. Write true or false.
            /manifests/m.yaml:23:13: disks[1].queues: '0' is not right here. Write a whole number from 1 to 64.
            /manifests/m.yaml:24:13: disks[1].serial: 'this serial number is too long' is not right here. Write 1 to 20 printable ASCII characters.
            /manifests/m.yaml:25:5: disks[2]: a disk has exactly one of file, memory, null; this has none. Add one.
            /manifests/m.yaml:27:45: disks[3].file: Disk file '/manifests/no/such.img' does not exist. Make it, for example with: truncate -s 1G /manifests/no/such.img
            /manifests/m.yaml:27:58: disks[3]: 'size' is no key of a disk. The keys are name, adapter, file, format, direct, memory, null, readonly, queues, packed, serial, nbd, nbd_name, nbd_readonly, nbd_insecure.
            /manifests/m.yaml:29:40: devices[0].count: 'many' is not right here. Write a whole number from 1 to 100000.
            /manifests/m.yaml:29:54: devices[0].parent: 'nobody' is no adapter of this manifest. Its adapters are adapter0.
            /manifests/m.yaml:30:27: devices[1].name: 'demo.part' is made at line 29 already. Give that group a higher count.
            /manifests/m.yaml:31:46: devices[2].name: 'a_module_of_a_long_name.with_a_long_part_name' has 45 characters. Module and name have at most 39 together, with the dot.
            /manifests/m.yaml:32:15: devices[3].module: 'de.mo' is not right here. Write letters, digits, '_' and '-', with module and name at most 39 characters together.
            /manifests/m.yaml:34:13: serials[0].name: 'adapter0' is the name of the object at line 3 already. Choose another.
            /manifests/m.yaml:34:31: serials[0].driver: 'vfio pci' is not right here. Write a driver's name, for example vfio-pci.
            /manifests/m.yaml:36:5: functions[0]: a function has exactly one of simulated, vfio_user, host, virtio, provider; this has vfio_user, host. Keep one.
            /manifests/m.yaml:36:28: functions[0].vfio_user: /manifests/no/such.sock does not exist. Start the server that makes it, or name its socket.
            /manifests/m.yaml:36:48: functions[0].host: '3:0' is not right here. Write a PCI address, for example 0000:03:00.1.
            /manifests/m.yaml:39:28: functions[3].vfio_user: / is a folder. Start the server that makes it, or name its socket.
            /manifests/m.yaml:40:5: functions[4]: a function has exactly one of simulated, vfio_user, host, virtio, provider; this has none. Add one.
            /manifests/m.yaml:41:10: modules: /manifests/no/such/folder does not exist. Make the folder, or name one that is there.
            """,
            error.Message);
    }

    [Fact]
    public void Every_fault_of_every_disk_is_told_at_its_file_key()
    {
        var folder = Directory.CreateTempSubdirectory("vb").FullName;
        try
        {
            string At(string name) => Path.Combine(folder, name);
            File.WriteAllBytes(At("good.img"), new byte[4096]);
            File.WriteAllBytes(At("empty.img"), []);
            File.WriteAllBytes(At("odd.img"), new byte[1000]);
            File.WriteAllBytes(At("a.qcow2"), [(byte)'Q', (byte)'F', (byte)'I', 0xfb, 0, 0, 0, 3, .. new byte[992]]);
            var error = Assert.Throws<ManifestException>(() => ManifestReader.ReadText(
                """
                adapters:
                  - { name: a, model: merlin }
                disks:
                  - name: d0
                    adapter: a
                    file: empty.img
                  - { name: d1, adapter: a, file: odd.img, readonly: true }
                  - { name: d2, adapter: a, file: a.qcow2 }
                  - { name: d 3, adapter: a, file: none.img }
                  - { name: d4, adapter: a, file: . }
                  - { name: d5, adapter: a, file: good.img }
                  - { name: d6, adapter: a, file: ./good.img, readonly: true }
                  - { name: d7, adapter: a, file: /dev/null, format: qcow2 }
                  - { name: d8, adapter: a, memory: 1MiB, format: raw }
                """,
                At("m.yaml")));
            Assert.Equal(
                $"""
                m.yaml:6:11: disks[0].file: Disk file 'empty.img' is empty. Give it the disk's size: truncate -s 1G empty.img
                m.yaml:7:35: disks[1].file: Disk file 'odd.img' has 1000 bytes, which is no multiple of 512. Add zeros at its end, which keeps what is in it: truncate -s 1024 odd.img
                m.yaml:8:35: disks[2].file: Disk file 'a.qcow2' is an image in the format qcow2, and a disk is served from raw sectors. Convert it: qemu-img convert -O raw a.qcow2 a.raw. If those bytes are what a guest wrote to its own raw disk, say 'format: raw'.
                m.yaml:9:13: disks[3].name: 'd 3' is not right here. Write 1 to 63 letters, digits, '_', '.' and '-', a letter or digit first.
                m.yaml:9:36: disks[3].file: Disk file 'none.img' does not exist. Make it, for example with: truncate -s 1G none.img
                m.yaml:10:35: disks[4].file: Disk file '{folder}' is a folder. Name a file.
                m.yaml:12:35: disks[6].file: good.img is the file of disk 'd5' at line 11 already. Name another, or make both read-only.
                m.yaml:13:35: disks[7].file: Disk file '/dev/null' is no regular file. Name one.
                m.yaml:13:54: disks[7].format: 'qcow2' is not right here. Write raw.
                m.yaml:14:51: disks[8].format: only a file has a format, and this disk is in none. Remove the key.
                """,
                error.Message.Replace(folder + "/", "", StringComparison.Ordinal));
            File.WriteAllBytes(At("a.qcow2"), [(byte)'Q', (byte)'F', (byte)'I', 0xfb, 0, 0, 0, 3, .. new byte[1016]]);
            var raw = ManifestReader.ReadText("adapters: [{ name: a, model: merlin }]\ndisks: [{ name: d, adapter: a, file: a.qcow2, format: raw }]", At("m.yaml"));
            Assert.Equal(new DiskBacking.File(At("a.qcow2"), IsRaw: true), Assert.Single(raw.Disks).Backing.Value);
            const string Direct = "adapters: [{ name: a, model: merlin }]\ndisks: [{ name: d, adapter: a, file: good.img, direct: true }]";
            // A file system may have no direct transfers.
            if (FileBackend.FindFault(At("good.img"), direct: true) is { } fault)
                Assert.EndsWith(fault.Message, Assert.Throws<ManifestException>(() => ManifestReader.ReadText(Direct, At("m.yaml"))).Message, StringComparison.Ordinal);
            else
                Assert.Equal(new DiskBacking.File(At("good.img"), IsDirect: true), Assert.Single(ManifestReader.ReadText(Direct, At("m.yaml")).Disks).Backing.Value);
            error = Assert.Throws<ManifestException>(() => ManifestReader.ReadText(
                "adapters: [{ name: a, model: merlin }]\ndisks: [{ name: d, adapter: a, memory: 1MiB, direct: true }]", At("m.yaml")));
            Assert.EndsWith(
                "disks[0].direct: only a file has a page cache to pass by, and this disk is in none. Remove the key 'direct'.", error.Message, StringComparison.Ordinal);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    [Theory]
    [InlineData("adapters: [", "m.yaml:2:1: this is no YAML: ")]
    [InlineData("- a\n- b", "m.yaml:1:1: a list is not right here. Write a manifest with the keys adapters, switches, joins, disks, serials, functions, devices, modules.")]
    [InlineData("adapters: &a []\ndisks: *a", "m.yaml:1:11: '&a' is an anchor, which a manifest can't have. Remove it.\nm.yaml:2:8: '*a' is an alias, which a manifest can't have. Write the value out.")]
    [InlineData("adapters: []\n---\ndisks: []", "m.yaml:2:1: a second document begins here. A manifest is one document; remove '---' and what follows.")]
    [InlineData("adapters:", "m.yaml:1:10: adapters: empty is not right here. Write a list, or remove the key.")]
    [InlineData("adapters: !!set {}", "m.yaml:1:11: 'tag:yaml.org,2002:set' is a tag, which a manifest can't have. Remove it.")]
    public void Broken_documents_are_told_at_their_place(string text, string expected) =>
        Assert.StartsWith(expected, Assert.Throws<ManifestException>(() => ManifestReader.ReadText(text, "m.yaml")).Message, StringComparison.Ordinal);

    [Fact]
    public void Deep_nesting_is_refused_and_not_followed()
    {
        var error = Assert.Throws<ManifestException>(() => ManifestReader.ReadText("adapters: " + new string('[', 5000), "m.yaml"));
        Assert.Contains("more than 32 levels", error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("[", "more than 32 levels")]
    [InlineData("- ", "more than 32 levels")]
    [InlineData("? ", "more than 32 levels")]
    [InlineData("{a: ", "more than 32 levels")]
    [InlineData("&a ", "this is no YAML")]
    [InlineData("!a ", "this is no YAML")]
    [InlineData("[a,", "more than 32 levels")]
    public async Task Megabytes_of_nesting_end_soon(string piece, string expected)
    {
        var text = string.Concat(Enumerable.Repeat(piece, (4 << 20) / piece.Length));
        var error = await Task.Run(() => Assert.Throws<ManifestException>(() => ManifestReader.ReadText(text, "m.yaml"))).WaitAsync(TimeSpan.FromSeconds(30));
        Assert.Contains(expected, error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Aliases_that_stand_for_more_than_a_machine_holds_are_not_followed()
    {
        var text = "adapters: &a0 [x]\n" + string.Concat(Enumerable.Range(1, 30).Select(i => $"k{i}: &a{i} [{string.Join(", ", Enumerable.Repeat($"*a{i - 1}", 10))}]\n"));
        var error = await Task.Run(() => Assert.Throws<ManifestException>(() => ManifestReader.ReadText(text, "m.yaml"))).WaitAsync(TimeSpan.FromSeconds(30));
        Assert.Contains("'*a0' is an alias, which a manifest can't have.", error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("adapters: [", "a, ", "]")]
    [InlineData("adapters:\n", "- {}\n", "")]
    [InlineData("", "a: 1\n", "")]
    [InlineData("adapters:\n- { name: a, model: merlin }\ndisks:\n", "- { name: d, adapter: x, memory: 512 }\n", "")]
    public async Task Long_file_of_nothing_but_faults_is_told_in_few_lines(string before, string fault, string after)
    {
        var text = before + string.Concat(Enumerable.Repeat(fault, (4 << 20) / fault.Length)) + after;
        var allocated = GC.GetTotalAllocatedBytes();
        var error = await Task.Run(() => Assert.Throws<ManifestException>(() => ManifestReader.ReadText(text, "m.yaml"))).WaitAsync(TimeSpan.FromSeconds(60));
        Assert.InRange(error.Errors.Count, 1000, 1010);
        Assert.Equal(51, error.Message.Split('\n').Length);
        Assert.True(GC.GetTotalAllocatedBytes() - allocated < 4L << 30);
    }

    [Fact]
    public void More_devices_than_a_program_takes_down_in_time_are_refused_with_the_limit()
    {
        var error = Assert.Throws<ManifestException>(() => ManifestReader.ReadText("devices: [{ module: a, name: b, count: 1000000 }]", "m.yaml"));
        Assert.Equal("m.yaml:1:40: devices[0].count: '1000000' is not right here. Write a whole number from 1 to 100000.", error.Message);
        error = Assert.Throws<ManifestException>(() => ManifestReader.ReadText(
            """
            devices:
              - { module: a, name: a, count: 60000 }
              - { module: a, name: b, count: 40000 }
              - { module: a, name: c }
              - { module: a, name: d }
            """,
            "m.yaml"));
        Assert.Equal("m.yaml:4:5: devices[2]: with this group the manifest makes 100001 devices. All groups together have at most 100000; lower the counts.", error.Message);
    }

    [Theory]
    [InlineData("pipe", Errno.EINVAL, "is a pipe. Write the manifest to a file and name that.")]
    [InlineData("link-to-pipe", Errno.EINVAL, "is a pipe. Write the manifest to a file and name that.")]
    [InlineData("/dev/zero", Errno.EINVAL, "is a device. Write the manifest to a file and name that.")]
    [InlineData("socket", Errno.EINVAL, "is a socket. Write the manifest to a file and name that.")]
    [InlineData(".", Errno.EISDIR, "is a folder. Name a file in it, or none for the default manifest.")]
    [InlineData("absent", Errno.ENOENT, "does not exist. Name a file, or none for the default manifest.")]
    [InlineData("large", Errno.EINVAL, "has more than 16777216 bytes, which is the most that a manifest has. 'count' makes many devices with few words.")]
    public async Task What_is_no_manifest_file_is_refused_at_once(string name, Errno errno, string expected)
    {
        var folder = Directory.CreateTempSubdirectory("virtbus-manifest-");
        try
        {
            using (var mkfifo = System.Diagnostics.Process.Start("mkfifo", [Path.Combine(folder.FullName, "pipe")]))
                await mkfifo.EndsAsync();
            File.CreateSymbolicLink(Path.Combine(folder.FullName, "link-to-pipe"), "pipe");
            using var socket = new System.Net.Sockets.Socket(System.Net.Sockets.AddressFamily.Unix, System.Net.Sockets.SocketType.Stream, System.Net.Sockets.ProtocolType.Unspecified);
            socket.Bind(new System.Net.Sockets.UnixDomainSocketEndPoint(Path.Combine(folder.FullName, "socket")));
            using (var large = File.Create(Path.Combine(folder.FullName, "large")))
                large.SetLength((16 << 20) + 1);
            var path = Path.Combine(folder.FullName, name);
            var error = await Task.Run(() => Assert.ThrowsAny<VirtbusException>(() => ManifestReader.ReadFile(path))).WaitAsync(TimeSpan.FromSeconds(20));
            Assert.Equal((errno, $"Manifest {path} {expected}"), (error.Errno, error.Message));
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }

    [Fact]
    public void Name_of_a_manifest_with_a_NUL_in_it_is_refused_with_a_sentence()
    {
        var error = Assert.Throws<VirtbusException>(() => ManifestReader.ReadFile("/dev/null\0.yaml"));
        Assert.Equal((Errno.EINVAL, "The manifest's name '/dev/null\\0.yaml' has a NUL character, which the name of no file has. Name a file."), (error.Errno, error.Message));
    }

    [Fact]
    public void Values_carry_their_places_and_defaults_stand_in()
    {
        var manifest = ManifestReader.ReadText(
            """
            adapters:
              - name: a
                model: harrier
                mac: 02:00:00:00:00:0f
                parts: [vdpa]
                tap: vb0
              - { name: b, model: merlin }
            disks:
              - { name: d, adapter: a, memory: 512KiB }
              - { name: e, adapter: b, "null": 1GiB, readonly: true, queues: 4, serial: X1 }
            serials:
              - { name: s }
              - { name: t, driver: other-driver }
            functions:
              - { name: f, simulated: scratch }
              - { name: g, host: "0000:03:00.1", driver: other-driver }
            devices:
              - { module: demo, name: part, count: 512, parent: b }
              - { module: demo, name: other }
            """,
            "m.yaml");
        var a = manifest.Adapters[0];
        Assert.Equal(("a", AdapterModel.Harrier, AdapterParts.Vdpa, "vb0"), (a.Name.Value, a.Model.Value, a.Parts.Value, a.Tap!.Value.Value));
        Assert.Equal("02000000000F", a.Mac!.Value.ToString());
        Assert.Equal(new ManifestPosition(3, 12), a.Model.At);
        Assert.Equal(AdapterParts.Net | AdapterParts.Vdpa, manifest.Adapters[1].Parts.Value);
        var (f, g) = (manifest.Functions[0], manifest.Functions[1]);
        Assert.Equal(("f", "simulated", "scratch", null), (f.Name.Value, f.Provider, f.Function.Value, f.Driver?.Value));
        Assert.Equal(("g", "host", "0000:03:00.1", "other-driver"), (g.Name.Value, g.Provider, g.Function.Value, g.Driver?.Value));
        var d = manifest.Disks[0];
        Assert.Equal(new DiskBacking.Memory(512 << 10), d.Backing.Value);
        Assert.Equal((false, 1, "d"), (d.ReadOnly.Value, d.Queues.Value, d.Serial.Value));
        var e = manifest.Disks[1];
        Assert.Equal(new DiskBacking.Null(1L << 30), e.Backing.Value);
        Assert.Equal((true, 4, "X1"), (e.ReadOnly.Value, e.Queues.Value, e.Serial.Value));
        Assert.Equal([("s", "vfio-pci"), ("t", "other-driver")], manifest.Serials.Select(p => (p.Name.Value, p.Driver.Value)));
        Assert.Equal((512, "b"), (manifest.Devices[0].Count.Value, manifest.Devices[0].Parent!.Value.Value));
        Assert.Equal(1, manifest.Devices[1].Count.Value);
        Assert.Null(manifest.Devices[1].Parent);
    }

    [Fact]
    public void A_fabric_with_nothing_in_it_is_said_and_not_left_out()
    {
        Assert.Empty(ManifestReader.ReadText("# nothing\n{}\n", "m.yaml").Adapters);
        foreach (var (text, place) in new[] { ("", "1:1"), ("# nothing\n", "1:1"), ("---\n", "1:1"), ("null\n", "1:1"), ("\n~\n", "2:1") })
        {
            var e = Assert.Throws<ManifestException>(() => ManifestReader.ReadText(text, "m.yaml"));
            Assert.Equal($"m.yaml:{place}: there is nothing in this manifest. Write what the fabric has, or {{}} for a fabric with nothing in it.", e.Message);
        }
    }

    [Fact]
    public void The_shipped_schema_is_in_step_with_the_reader()
    {
        var shipped = Path.Combine(AppContext.BaseDirectory, "manifests", "manifest.schema.json");
        if (Environment.GetEnvironmentVariable("VIRTBUS_WRITE_GOLDEN") is { } source)
            File.WriteAllText(Path.Combine(source, "manifests/manifest.schema.json"), ManifestSchema.Text);
        Assert.Equal(ManifestSchema.Text, File.ReadAllText(shipped));
    }

    [Fact]
    public void The_default_manifest_needs_nothing_of_the_host()
    {
        var manifest = ManifestReader.ReadFile(Path.Combine(AppContext.BaseDirectory, "manifests", "default.yaml"));
        Assert.Equal(["merlin", "harrier"], manifest.Adapters.Select(a => a.Model.Value.ToString().ToLowerInvariant()));
        Assert.All(manifest.Adapters, a => Assert.Null(a.Tap));
        Assert.Equal(new DiskBacking.Memory(64 << 20), Assert.Single(manifest.Disks).Backing.Value);
    }
}
