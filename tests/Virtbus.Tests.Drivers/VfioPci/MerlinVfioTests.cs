using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Drivers.MerlinVfioPci;
using Virtbus.Drivers.Nic;
using Virtbus.Memory.Dma;
using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;

namespace Virtbus.Tests.Drivers.VfioPci;

/// <summary>The adapter's variant: bound on two buses (DM-14, VP-06), migrating through the physical function's channel (UP-05).</summary>
public sealed class MerlinVfioTests
{
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Vfio_device_is_there_when_both_halves_are_bound_in_either_order(bool channelFirst)
    {
        var adapter = await Adapter.NewAsync();
        if (channelFirst)
            await adapter.AddChannelAsync();
        await adapter.BindAsync(0);
        if (!channelFirst)
        {
            Assert.Empty(adapter.Devices);
            Assert.Contains(adapter.World.Lines.Lines, l => l.Contains("appears when the channel", StringComparison.Ordinal));
            await adapter.AddChannelAsync();
        }
        var device = Assert.Single(adapter.Devices);
        Assert.Same(adapter.Functions[0], device.Parent);
        await adapter.BindAsync(1);
        Assert.Equal(2, adapter.Devices.Count);
    }

    /// <summary>PV-01, PV-02: what is prepared before a function is visible is there at its first probe, and nothing else ever had it.</summary>
    [Fact]
    public async Task Function_that_was_prepared_before_it_is_visible_goes_to_its_user_at_once()
    {
        var adapter = await Adapter.NewAsync();
        await adapter.AddChannelAsync();
        await adapter.Physical.SetVirtualFunctionsAsync(0).In();
        var visible = 0;
        await adapter.Physical.SetVirtualFunctionsAsync(2, function =>
        {
            visible += adapter.World.Bus.TryGetDevice(function.Name, out _) ? 1 : 0;
            adapter.World.Fabric.SetDriverOverride(function, adapter.Driver.Name);
            return default;
        }).In();
        Assert.Equal(0, visible);
        Assert.Equal(adapter.Functions.Select(f => f.Name), adapter.Devices.Select(d => ((VfioDevice)d).Label));
    }

    [Fact]
    public async Task Half_that_goes_takes_the_vfio_device_and_one_that_comes_back_brings_it()
    {
        var adapter = await Adapter.NewAsync();
        await adapter.BindAsync(0);
        for (var i = 0; i < 2; i++)
        {
            await adapter.AddChannelAsync();
            Assert.Single(adapter.Devices);
            await adapter.RemoveChannelAsync().In();
            Assert.Empty(adapter.Devices);
            Assert.NotNull(adapter.Functions[0].Driver);
        }
        await adapter.AddChannelAsync();
        for (var i = 0; i < 2; i++)
        {
            await adapter.World.UnbindAsync(adapter.Functions[0]).In();
            Assert.Empty(adapter.Devices);
            await adapter.BindAsync(0);
            Assert.Single(adapter.Devices);
        }
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Either_half_waits_for_the_user_and_goes_after_the_vfio_device(bool channelGoes)
    {
        var adapter = await Adapter.NewAsync();
        await adapter.AddChannelAsync();
        await adapter.BindAsync(0);
        await adapter.BindAsync(1);
        var users = adapter.Devices.Select(d => VfioPciWorld.Open((PciDevice)d.Parent!)).ToArray();
        var asked = new int[2];
        var all = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        for (var i = 0; i < 2; i++)
        {
            var n = i;
            users[n].Handle.SetRequestCallback(_ =>
            {
                Interlocked.Increment(ref asked[n]);
                if (asked[0] > 0 && (asked[1] > 0 || !channelGoes))
                    all.TrySetResult();
            });
        }
        var going = channelGoes ? adapter.RemoveChannelAsync() : adapter.World.UnbindAsync(adapter.Functions[0]);
        // All users of a channel are asked at once, not one after the other.
        await all.Task.In();
        Assert.False(going.IsCompleted);
        Assert.Equal(channelGoes, asked[1] > 0);
        // The channel still answers while somebody may need it.
        Assert.True(users[0].Handle.Migration!.TrySetState(VfioMigrationState.Stop, out _, out var fault), fault.Message);
        users[0].Dispose();
        if (channelGoes)
        {
            Assert.False(going.IsCompleted);
            users[1].Dispose();
        }
        await going.In();
        Assert.Equal(channelGoes ? 0 : 1, adapter.Devices.Count);
        users[1].Dispose();
    }

    [Fact]
    public async Task Channel_that_is_gone_by_surprise_takes_the_function_from_its_user_at_once()
    {
        var adapter = await Adapter.NewAsync();
        await adapter.AddChannelAsync();
        await adapter.BindAsync(0);
        var user = VfioPciWorld.Open(adapter.Functions[0]);
        await adapter.World.Fabric.SurpriseRemoveAsync(adapter.Part!).In();
        Assert.Equal(Errno.ENODEV, user.ErrorOfRead(0, 0, 4));
        Assert.Empty(adapter.Devices);
        user.Dispose();
    }

    [Fact]
    public async Task Physical_function_that_goes_takes_all_of_it_in_order()
    {
        var adapter = await Adapter.NewAsync();
        await adapter.AddChannelAsync();
        await adapter.BindAsync(0);
        var user = VfioPciWorld.Open(adapter.Functions[0]);
        await adapter.World.Bus.SurpriseRemoveAsync(adapter.Physical).In();
        Assert.Equal(Errno.ENODEV, user.ErrorOfRead(0, 0, 4));
        user.Dispose();
        Assert.Empty(adapter.Devices);
        Assert.DoesNotContain(adapter.World.Bus.Devices, d => d is PciDevice { PhysicalFunction: not null });
        Assert.DoesNotContain(adapter.World.Lines.Lines, l => l.StartsWith("Error", StringComparison.Ordinal));
    }

    [Fact]
    public async Task Halves_that_come_and_go_at_once_end_as_they_should()
    {
        var adapter = await Adapter.NewAsync();
        await adapter.AddChannelAsync();
        for (var round = 0; round < 30; round++)
        {
            var bind = Task.Run(() => adapter.BindAsync(0));
            var channel = Task.Run(async () =>
            {
                await adapter.RemoveChannelAsync();
                await adapter.AddChannelAsync();
            });
            await Task.WhenAll(bind, channel).In();
            Assert.Single(adapter.Devices);
            await adapter.World.UnbindAsync(adapter.Functions[0]).In();
            Assert.Empty(adapter.Devices);
        }
    }

    [Fact]
    public async Task Function_that_is_no_merlin_virtual_function_is_refused_even_by_force()
    {
        var adapter = await Adapter.NewAsync();
        var other = await adapter.World.Bus.PlugAsync(new HeadlessFunction());
        adapter.World.Fabric.SetDriverOverride(other, "merlin-vfio-pci");
        var e = await Assert.ThrowsAsync<VirtbusException>(() => adapter.World.Fabric.BindAsync(adapter.Driver, other.Name).AsTask());
        Assert.Equal(Errno.EINVAL, e.Errno);
        Assert.Contains("vfio-pci", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task States_go_to_the_adapter_as_levels_of_standing_still()
    {
        var (adapter, user) = await OpenAsync();
        var migration = user.Handle.Migration!;
        Assert.Equal(VfioMigrationFlags.StopCopy | VfioMigrationFlags.P2P | VfioMigrationFlags.PreCopy, migration.Flags);
        (VfioMigrationState To, string Calls)[] steps =
        [
            (VfioMigrationState.RunningP2P, "suspend 70 p2p"),
            (VfioMigrationState.Stop, "suspend 70 all"),
            (VfioMigrationState.RunningP2P, "suspend 70 p2p"),
            (VfioMigrationState.Running, "resume 70"),
            (VfioMigrationState.Stop, "suspend 70 p2p|suspend 70 all"),
            (VfioMigrationState.Running, "suspend 70 p2p|resume 70"),
            (VfioMigrationState.PreCopy, "save 70"),
            (VfioMigrationState.PreCopyP2P, "suspend 70 p2p"),
            (VfioMigrationState.PreCopy, "resume 70"),
            (VfioMigrationState.StopCopy, "suspend 70 p2p|suspend 70 all|save 70"),
            (VfioMigrationState.Running, "suspend 70 p2p|resume 70"),
        ];
        foreach (var (to, calls) in steps)
        {
            adapter.Channel.Calls.Clear();
            Assert.True(migration.TrySetState(to, out _, out var fault), fault.Message);
            Assert.Equal(calls, string.Join('|', adapter.Channel.Calls));
        }
        Assert.True(migration.DataSize > 0);
        user.Dispose();
    }

    [Theory]
    [InlineData(true, true)]
    [InlineData(true, false)]
    [InlineData(false, false)]
    public async Task State_moves_to_another_function_byte_by_byte(bool preCopy, bool savesRunning)
    {
        var (source, from) = await OpenAsync();
        var (target, to) = await OpenAsync();
        source.Channel.SavesRunning = savesRunning;
        source.Channel.State = [1, 2, 3];
        var data = new List<byte>();
        VfioMigrationStream? stream = null;
        if (preCopy)
        {
            Assert.True(from.Handle.Migration!.TrySetState(VfioMigrationState.PreCopy, out stream, out _));
            Assert.True(stream!.TryGetPreCopyInfo(out var initial, out var dirty, out _));
            Assert.True(initial > 0);
            Assert.Equal(0ul, dirty);
            Assert.Equal(Errno.ENOMSG, ReadAll(stream, data));
            Assert.True(stream.TryGetPreCopyInfo(out initial, out _, out _));
            Assert.Equal(0ul, initial);
            source.Channel.Change([4, 5, 6, 7]);
            Assert.True(stream.TryGetPreCopyInfo(out _, out dirty, out _));
            Assert.Equal(savesRunning, dirty > 0);
            Assert.Equal(Errno.ENOMSG, ReadAll(stream, data));
            source.Channel.Calls.Clear();
        }
        Assert.True(from.Handle.Migration!.TrySetState(VfioMigrationState.StopCopy, out var opened, out _));
        Assert.Equal(preCopy, opened is null);
        if (preCopy && savesRunning)
            Assert.DoesNotContain("save 70", source.Channel.Calls);
        Assert.Equal(Errno.None, ReadAll(stream ?? opened!, data));

        Assert.True(to.Handle.Migration!.TrySetState(VfioMigrationState.Resuming, out var into, out _));
        foreach (var part in data.Chunk(7))
            Assert.True(into!.TryWrite(part, out var fault), fault.Message);
        Assert.True(to.Handle.Migration.TrySetState(VfioMigrationState.Running, out _, out _));
        Assert.Equal(source.Channel.State, target.Channel.State);
        Assert.Equal("load 70|suspend 70 p2p|resume 70", string.Join('|', target.Channel.Calls.SkipWhile(c => c[0] != 'l')));
        from.Dispose();
        to.Dispose();
    }

    [Fact]
    public async Task Data_that_is_cut_or_of_another_kind_is_refused()
    {
        var (_, from) = await OpenAsync();
        Assert.True(from.Handle.Migration!.TrySetState(VfioMigrationState.StopCopy, out var stream, out _));
        var data = new List<byte>();
        Assert.Equal(Errno.None, ReadAll(stream!, data));
        from.Dispose();
        for (var length = 1; length < data.Count; length += 3)
            await RefusedAsync([.. data.Take(length)]);
        await RefusedAsync([.. data, 0]);
        await RefusedAsync([.. data, .. data]);
        for (var at = 0; at < 28; at++)
        {
            byte[] changed = [.. data];
            changed[at] ^= 0x40;
            await RefusedAsync(changed);
        }
        // Called off before anything came.
        var (other, to) = await OpenAsync();
        Assert.True(to.Handle.Migration!.TrySetState(VfioMigrationState.Resuming, out _, out _));
        Assert.True(to.Handle.Migration.TrySetState(VfioMigrationState.Running, out _, out _));
        Assert.DoesNotContain("load 70", other.Channel.Calls);
        to.Dispose();
    }

    [Fact]
    public async Task Adapter_that_fails_leaves_the_function_where_it_was_or_in_error()
    {
        var (adapter, user) = await OpenAsync();
        var migration = user.Handle.Migration!;
        adapter.Channel.Fails = "suspend 70 all";
        Assert.False(migration.TrySetState(VfioMigrationState.Stop, out _, out var fault));
        Assert.Equal(Errno.EIO, fault.Errno);
        Assert.Equal(VfioMigrationState.RunningP2P, migration.State);
        adapter.Channel.Fails = "";
        Assert.True(migration.TrySetState(VfioMigrationState.PreCopy, out _, out _));
        adapter.Channel.Fails = "save 70";
        adapter.Channel.Change([9]);
        Assert.False(migration.TrySetState(VfioMigrationState.StopCopy, out _, out _));
        Assert.Equal(VfioMigrationState.PreCopyP2P, migration.State);
        Assert.Equal("suspend 70 p2p", adapter.Channel.Calls[^1]);
        adapter.Channel.OnSave = () => adapter.Channel.Fails = "suspend 70 p2p";
        adapter.Channel.RefusesSave = true;
        Assert.False(migration.TrySetState(VfioMigrationState.StopCopy, out _, out _));
        Assert.Equal(VfioMigrationState.Error, migration.State);
        adapter.Channel.Fails = "";
        Assert.True(user.Handle.TryReset(out _));
        Assert.Equal(VfioMigrationState.Running, migration.State);
        user.Dispose();
    }

    [Fact]
    public async Task Close_and_reset_end_a_session_and_the_next_user_runs()
    {
        var (adapter, user) = await OpenAsync();
        Assert.True(user.Handle.Migration!.TrySetState(VfioMigrationState.StopCopy, out var stream, out _));
        Assert.True(user.Handle.TryReset(out _));
        Assert.Equal(VfioMigrationState.Running, user.Handle.Migration.State);
        Assert.False(stream!.TryRead(new byte[1], out _, out var fault));
        Assert.Equal(Errno.ENODEV, fault.Errno);
        Assert.True(user.Handle.Migration.TrySetState(VfioMigrationState.Stop, out _, out _));
        var pageSize = 4096ul;
        IovaRange[] ranges = [new(default, 1 << 20)];
        Assert.True(user.Handle.DmaLogging!.TryStart(ref pageSize, ranges, out _));
        user.Dispose();
        using var next = VfioPciWorld.Open(adapter.Functions[0]);
        Assert.Equal(VfioMigrationState.Running, next.Handle.Migration!.State);
        Assert.True(next.Handle.DmaLogging!.TryStart(ref pageSize, ranges, out fault), fault.Message);
    }

    [Fact]
    public async Task Stream_of_an_older_version_is_refused_with_both_versions_named()
    {
        var (adapter, to) = await OpenAsync();
        using (to)
        {
            var identity = new byte[VfioRecordWriter.HeaderSize + 12];
            (identity[0], identity[12], identity[16]) = (12, 1, 1);
            Assert.True(to.Handle.Migration!.TrySetState(VfioMigrationState.Resuming, out var into, out _));
            Assert.False(into!.TryWrite(identity, out var fault));
            Assert.Equal(new Fault(Errno.EINVAL, "the migration data is of version 1; version 2 is read"), fault);
            Assert.DoesNotContain("load 70", adapter.Channel.Calls);
        }
    }

    private static async Task RefusedAsync(byte[] data)
    {
        var (adapter, to) = await OpenAsync();
        using (to)
        {
            Assert.True(to.Handle.Migration!.TrySetState(VfioMigrationState.Resuming, out var into, out _));
            Assert.False(into!.TryWrite(data, out var fault) && to.Handle.Migration.TrySetState(VfioMigrationState.Stop, out _, out fault));
            Assert.True(fault.Errno is Errno.EINVAL or Errno.ENOMEM, fault.ToString());
            Assert.DoesNotContain("load 70", adapter.Channel.Calls);
        }
    }

    private static Errno ReadAll(VfioMigrationStream stream, List<byte> data)
    {
        var buffer = new byte[11];
        while (stream.TryRead(buffer, out var count, out var fault))
        {
            if (count == 0)
                return Errno.None;
            data.AddRange(buffer.AsSpan(0, count));
            Assert.True(data.Count < 10_000);
            _ = fault;
        }
        stream.TryRead(buffer, out _, out var last);
        return last.Errno;
    }

    private static async Task<(Adapter Adapter, PciUser User)> OpenAsync()
    {
        var adapter = await Adapter.NewAsync();
        await adapter.AddChannelAsync();
        await adapter.BindAsync(0);
        return (adapter, VfioPciWorld.Open(adapter.Functions[0]));
    }

    /// <summary>A physical function with two virtual ones and a fake of its core driver's migration channel.</summary>
    private sealed class Adapter
    {
        private Adapter(VfioPciWorld world, PciDevice physical, MerlinVfioPciDriver driver)
        {
            World = world;
            Physical = physical;
            Driver = driver;
        }

        public VfioPciWorld World { get; }

        public PciDevice Physical { get; }

        public MerlinVfioPciDriver Driver { get; }

        public FakeChannel Channel { get; } = new();

        public NicPart? Part { get; private set; }

        public IReadOnlyList<PciDevice> Functions => Physical.VirtualFunctions;

        public IReadOnlyList<Device> Devices => VfioSubsystem.Of(World.Fabric).Class.Devices;

        public static async Task<Adapter> NewAsync()
        {
            var world = await VfioPciWorld.NewAsync();
            var pairs = new MerlinPairs(world.Lines);
            var driver = new MerlinVfioPciDriver(world.Bus, pairs);
            await world.Fabric.RegisterDriverAsync(new MerlinChannelDriver(world.Auxiliary, pairs));
            await world.Fabric.RegisterDriverAsync(driver);
            var physical = await world.Bus.PlugAsync(new FakeMerlin());
            physical.Enable();
            await physical.SetVirtualFunctionsAsync(2).In();
            return new Adapter(world, physical, driver);
        }

        public Task BindAsync(int function) => World.BindAsync(Functions[function], Driver.Name);

        public async Task AddChannelAsync()
        {
            Part = new NicPart(World.Auxiliary, "merlin_core", NicPartKind.Migration, 0, 0, new FakeCore(Physical, Channel));
            await World.Fabric.AddAsync(Part);
            Assert.NotNull(Part.Driver);
        }

        public Task RemoveChannelAsync() => World.Fabric.UnregisterAsync(Part!).AsTask();
    }

    /// <summary>A core of which parts need the device and one capability.</summary>
    private sealed class FakeCore(PciDevice device, FakeChannel channel) : INicCore
    {
        public Device Device => device;

        public T? Find<T>()
            where T : class => channel as T;
    }

    private sealed class FakeChannel : INicMigration
    {
        private ulong _generation = 1;
        private bool _isStopped;

        public List<string> Calls { get; } = [];

        public byte[] State { get; set; } = [42];

        public bool SavesRunning { get; set; }

        public bool RefusesSave { get; set; }

        public string Fails { get; set; } = "";

        public Action? OnSave { get; set; }

        public bool TryGetFunctionId(Device function, out uint id)
        {
            // Ids are the adapter's own, and no numbers of virtual functions.
            id = 70 + (uint)((PciDevice)function).VirtualFunctionIndex;
            return true;
        }

        public void Change(byte[] state)
        {
            State = state;
            _generation++;
        }

        public bool TrySuspend(uint function, bool p2pOnly, out Fault fault)
        {
            if (!Do($"suspend {function} {(p2pOnly ? "p2p" : "all")}", out fault))
                return false;
            _isStopped = !p2pOnly;
            return true;
        }

        public bool TryResume(uint function, out Fault fault)
        {
            _isStopped = false;
            return Do($"resume {function}", out fault);
        }

        public bool TrySaveState(uint function, out byte[] state, out Fault fault)
        {
            state = State;
            var done = Do($"save {function}", out fault);
            OnSave?.Invoke();
            if (done && (RefusesSave || (!_isStopped && !SavesRunning)))
                fault = new Fault(Errno.EBUSY, "it does not stand still");
            return fault == Fault.None;
        }

        public bool TryLoadState(uint function, ReadOnlySpan<byte> state, out Fault fault)
        {
            State = state.ToArray();
            return Do($"load {function}", out fault);
        }

        public ulong StateGeneration(uint function) => _generation;

        private bool Do(string call, out Fault fault)
        {
            Calls.Add(call);
            fault = call == Fails ? new Fault(Errno.EIO, "the adapter does not answer") : Fault.None;
            return fault == Fault.None;
        }
    }

    private sealed class FakeMerlin : PciPhysicalFunction
    {
        private static readonly ConfigLayout Physical = ConfigSpaceBuilder.Function(0x5642, 0x1001)
            .Class(0x020000)
            .MemoryBar64(0, 0x4000)
            .Express(new PciExpressOptions())
            .Ari()
            .Sriov(new SriovOptions { TotalVfs = 4, VfDeviceId = 0x1002, VfBars = [new PciBar(PciBarKind.Memory64, 0x4000)] })
            .Build();

        private static readonly ConfigLayout Virtual = ConfigSpaceBuilder.VirtualFunction(Physical).Build();

        public FakeMerlin()
            : base(Physical)
        {
        }

        protected override PciVirtualFunction CreateVirtualFunction(int index) => new FakeFunction(this, index);

        protected override void ReadRegister(int bar, ulong offset, Span<byte> destination) => destination.Clear();

        protected override void WriteRegister(int bar, ulong offset, ReadOnlySpan<byte> source)
        {
        }

        protected override void OnReset(PciResetKind kind)
        {
        }

        private sealed class FakeFunction(FakeMerlin physical, int index) : PciVirtualFunction(physical, index, Virtual)
        {
            protected override void ReadRegister(int bar, ulong offset, Span<byte> destination) => destination.Clear();

            protected override void WriteRegister(int bar, ulong offset, ReadOnlySpan<byte> source)
            {
            }

            protected override void OnReset(PciResetKind kind)
            {
            }
        }
    }
}
