using System.Buffers.Binary;
using Virtbus.Buses.Auxiliary;
using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Drivers.MerlinCore;
using Virtbus.Drivers.MerlinVfioPci;
using Virtbus.Drivers.NicNet;
using Virtbus.Drivers.NicRings;
using Virtbus.Ethernet;
using Virtbus.Hardware.Adapter;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Subsystems.Net;
using Virtbus.Subsystems.Vfio;
using Virtbus.Transports.VfioUser;
using static Virtbus.Wire.VfioUser.VfioUserCommand;
using static Virtbus.Tests.WireMessages;

namespace Virtbus.Tests.Transports.VfioUser;

/// <summary>
/// A hostile user of one virtual function, over vfio-user: it does not answer for its memory, or it fills its eventfds and makes them
/// blocking. The physical function and another virtual one, which have their own drivers, go on; and whatever ends the user ends it.
/// </summary>
[Collection(WireCollection.Name)]
public sealed class AdapterUserTests : IAsyncLifetime
{
    private const ulong MacAddress = 0x020000000010;
    private const uint Registers = 0, Doorbells = 2, Config = 7;
    private const uint MsiX = 2, Request = 4;
    private const uint SetEventFd = 0x24, Loopback = 0x21;
    private static readonly TimeSpan Long = TimeSpan.FromMinutes(2);

    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("virtbus");
    private readonly RecordedLog _log = new(Microsoft.Extensions.Logging.LogLevel.Information);
    private readonly byte[] _memory = new byte[0x10000];
    private readonly AdapterFunction _hardware = AdapterFunction.CreateMerlin(new AdapterEngine("adapter0", MacAddress, 1, 0), 2);
    private readonly Fabric _fabric;
    private readonly PciBus _bus = new();
    private PciDevice _adapter = null!;
    private VfioUserServer _server = null!;
    private int _sequence;

    public AdapterUserTests() => _fabric = new Fabric(new FabricOptions { LoggerFactory = _log });

    public async ValueTask InitializeAsync()
    {
        _fabric.RegisterBus(new AuxiliaryBus());
        _fabric.RegisterBus(_bus);
        await new MerlinCoreModule().InitAsync(new ModuleContext(_fabric, "merlin_core"));
        await new NicNetModule().InitAsync(new ModuleContext(_fabric, "nic_net"));
        await new MerlinVfioPciModule().InitAsync(new ModuleContext(_fabric, "merlin_vfio_pci"));
        _adapter = await _bus.PlugAsync(_hardware, label: "adapter0");
        await _adapter.SetVirtualFunctionsAsync(2, function =>
        {
            if (function.VirtualFunctionIndex == 0)
                _fabric.SetDriverOverride(function, "merlin-vfio-pci");
            return default;
        });
        _server = new VfioUserServer(
            Path.Combine(_folder.FullName, "socket"), Device, _log, new VfioUserServerOptions { AnswerTimeout = TimeSpan.FromMinutes(10) });
        _server.Start();
    }

    public async ValueTask DisposeAsync()
    {
        await _server.StopAsync().EndsAsync("the server's stop", () => _log.Text);
        await _bus.UnplugAsync(_hardware).AsTask().EndsAsync("the unplug", () => _log.Text);
        _hardware.Dispose();
        _folder.Delete(recursive: true);
    }

    [Fact]
    public async Task User_that_does_not_answer_for_its_memory_holds_up_no_other_function()
    {
        using var client = Connect();
        Stick(client).Dispose();
        await OthersGoOnAsync();
    }

    [Fact]
    public async Task User_that_fills_its_eventfds_and_makes_them_blocking_holds_up_nobody()
    {
        using var client = Connect();
        client.OnRequest = Serve;
        GiveFilled(client, MsiX);
        // Each answer raises the vector, and the function goes on.
        for (var i = 1u; i <= 4; i++)
        {
            RingCommands(client, i);
            WireFixture.Until(() => ReadLong(client, 0xD0) == i, "the answer to a command");
        }
        client.Do(DEVICE_SET_IRQS, Irqs(Loopback, MsiX, 0, 1)).Dispose();
        await OthersGoOnAsync();
    }

    [Fact]
    public async Task Unbind_is_not_held_up_by_the_eventfd_by_which_it_asks()
    {
        using var client = Connect();
        GiveFilled(client, Request);
        var unbind = _fabric.UnbindAsync(Function.Driver!, Function.Name).AsTask();
        _log.WaitFor(1102, "its driver wants it back");
        client.HangUp();
        await unbind.WaitAsync(Long);
    }

    [Theory]
    [InlineData("close")]
    [InlineData("force")]
    [InlineData("function is lost")]
    [InlineData("adapter is lost")]
    [InlineData("adapter is unbound by force")]
    [InlineData("stop")]
    public async Task User_that_does_not_answer_is_ended_by(string how)
    {
        // What is made once is there before it is counted.
        Connect().Dispose();
        WaitGone();
        int descriptors = Kernel.DescriptorsBefore(), mappings = Kernel.Mappings;
        var client = Connect();
        GiveFilled(client, MsiX);
        Stick(client).Dispose();
        var (function, device) = (Function, Device);
        Task end;
        switch (how)
        {
            case "close":
                client.HangUp();
                end = Task.CompletedTask;
                break;
            case "force":
                end = _fabric.UnbindAsync(function.Driver!, function.Name).AsTask();
                device.Revoke();
                break;
            case "function is lost":
                end = _fabric.SurpriseRemoveAsync(function).AsTask();
                break;
            case "adapter is lost":
                end = _bus.SurpriseRemoveAsync(_adapter).AsTask();
                break;
            case "adapter is unbound by force":
                end = _fabric.UnbindAsync(_adapter.Driver!, _adapter.Name).AsTask();
                device.Revoke();
                break;
            default:
                end = _server.StopAsync();
                break;
        }
        await end.WaitAsync(Long);
        WaitGone();
        client.Dispose();
        Assert.Equal(DmaOwnerKind.None, function.IommuGroup.OwnerKind);
        // The others take more with them than the user's.
        if (how is "close" or "force" or "function is lost")
            Assert.Equal((descriptors, mappings), (Kernel.Descriptors, Kernel.Mappings));
        if (!how.StartsWith("adapter", StringComparison.Ordinal))
            await OthersGoOnAsync();
        if (how == "close")
            Connect().Dispose();
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Migration_of_a_function_that_waits_for_its_user_holds_up_no_other_command(bool answers)
    {
        using var client = Connect();
        using var request = Stick(client);
        // STOP: the server's thread waits until the function stands still.
        var id = client.Send(DEVICE_FEATURE, [.. Words(16, 0x20002), .. Words((uint)VfioMigrationState.Stop, 0)]);
        await OthersGoOnAsync();
        if (answers)
        {
            client.Answer(request);
            using var reply = client.ReceiveReply(id);
            Assert.Equal((DEVICE_FEATURE, Errno.None), (reply!.Command, reply.Error));
        }
        else
        {
            client.HangUp();
            WaitGone();
        }
        await OthersGoOnAsync();
    }

    [Fact]
    public async Task User_of_a_virtual_function_outlives_a_reset_of_the_physical_one_which_resets_it()
    {
        using var client = Connect();
        client.Do(DEVICE_SET_IRQS, Irqs(SetEventFd, MsiX, 0, 1), client.Signal.Descriptor).Dispose();
        RingCommands(client, 1);
        WireFixture.Until(() => ReadLong(client, 0xD0) == 1, "the answer to a command");
        Assert.True(PciUser.Arrives(client.Signal));
        var (functions, device) = (_adapter.VirtualFunctions.ToArray(), Device);
        await _fabric.Tree.WriteAsync(_adapter.DevPath + "/reset", "1").AsTask().WaitAsync(Long);
        Assert.Equal("2\n", _fabric.Tree.Read(_adapter.DevPath + "/sriov_numvfs"));
        Assert.Equal(functions, _adapter.VirtualFunctions);
        Assert.Same(device, Device);
        Assert.True(_server.IsConnected);
        // As after power-on: no bus master, no rings, not enabled.
        using (var command = client.Do(REGION_READ, Access(Config, 4, 2)))
            Assert.Equal([2, 0], command.Payload[16..]);
        Assert.Equal((0UL, 0UL), (ReadLong(client, 0x80), ReadLong(client, 0x48) & 1));
        // What the user set up at the system's side stays, as at a reset of its own.
        SetUp(client);
        RingCommands(client, 1);
        WireFixture.Until(() => ReadLong(client, 0xD0) == 1, "the answer to a command after the reset");
        Assert.True(PciUser.Arrives(client.Signal));
        await OthersGoOnAsync();
    }

    private PciDevice Function => _adapter.VirtualFunctions[0];

    private VfioDevice Device => Assert.Single(Function.Children.OfType<VfioDevice>());

    private NetDevice Net(string name)
    {
        Assert.True(NetSubsystem.Of(_fabric).Class.TryGetDevice(name, out var device));
        return (NetDevice)device;
    }

    private void WaitGone() => WireFixture.Until(() => !_server.IsConnected, $"the end of the user in\n{_log.Text}");

    // A user that has set the function up: command and event ring in memory that goes by messages.
    private WireClient Connect()
    {
        var client = new WireClient(_server.Path) { OnRequest = Serve };
        client.Greet();
        client.Do(DMA_MAP, Map(Base, (ulong)_memory.Length)).Dispose();
        SetUp(client);
        return client;
    }

    private void SetUp(WireClient client)
    {
        Array.Clear(_memory);
        client.Do(REGION_WRITE, Access(Config, 4, 2, 6, 0)).Dispose();
        WriteLong(client, 0x80, Base);
        WriteLong(client, 0x88, 4);
        WriteLong(client, 0xC0, Base + 0x1000);
        WriteLong(client, 0xC8, 4);
        WriteLong(client, 0x40, 1);
        WireFixture.Until(() => (ReadLong(client, 0x48) & 1) != 0, "the function to be enabled");
    }

    // An eventfd as its only vector that is full and blocks who writes to it.
    private static void GiveFilled(WireClient client, uint index)
    {
        client.Do(DEVICE_SET_IRQS, Irqs(SetEventFd, index, 0, 1), client.Signal.Descriptor).Dispose();
        Blocking.Fill(client.Signal);
    }

    // The function reads its command ring, and gets no answer.
    private static WireReply Stick(WireClient client)
    {
        WireReply? request = null;
        var id = client.Send(REGION_WRITE, Access(Doorbells, 0, 4, Words(1)));
        for (var i = 0; i < 2; i++)
        {
            var message = client.Receive();
            Assert.NotNull(message);
            if (message.IsReply)
                Assert.Equal(id, message.Id);
            else
                request = message;
        }
        Assert.Equal(DMA_READ, request?.Command);
        return request!;
    }

    private static void RingCommands(WireClient client, uint producer) => client.Do(REGION_WRITE, Access(Doorbells, 0, 4, Words(producer))).Dispose();

    private byte[] Serve(WireReply request)
    {
        var at = (int)(request.Long(0) - Base);
        if (request.Command == DMA_READ)
            return [.. request.Payload, .. _memory.AsSpan(at, (int)request.Long(8))];
        request.Payload.AsSpan(16).CopyTo(_memory.AsSpan(at));
        return request.Payload[..16];
    }

    private static void WriteLong(WireClient client, ulong offset, ulong value) =>
        client.Do(REGION_WRITE, Access(Registers, offset, 8, Longs(value))).Dispose();

    private static ulong ReadLong(WireClient client, ulong offset)
    {
        using var reply = client.Do(REGION_READ, Access(Registers, offset, 8));
        return reply.Long(16);
    }

    // Frames both ways between the physical function and the other virtual one, and commands of both.
    private async Task OthersGoOnAsync()
    {
        foreach (var (from, to) in new[] { ("adapter0np0", "adapter0v1np0"), ("adapter0v1np0", "adapter0np0") })
        {
            var last = _sequence + 20;
            var sink = new Sink(last);
            Net(to).AddReceiver(sink);
            while (_sequence < last)
            {
                _sequence++;
                Assert.True(Net(from).TryTransmit(Frame(Net(from).Address, _sequence), out var fault), fault.Message);
            }
            await sink.Done.WaitAsync(Long);
            Net(to).RemoveReceiver(sink);
        }
        Assert.Equal(8, NicCore.TryGet(_adapter)!.GetVirtualFunction(0).QueueSets);
        foreach (var up in new[] { "0", "1" })
        {
            await _fabric.Tree.WriteAsync(_adapter.DevPath + "/carrier", up);
            WireFixture.Until(() => _fabric.Tree.Read("/class/net/adapter0v1np0/carrier") == up + "\n", "the link's change");
        }
    }

    private static byte[] Frame(ulong source, int sequence)
    {
        var frame = new byte[64];
        frame.AsSpan(0, 6).Fill(0xFF);
        BinaryPrimitives.WriteUInt16BigEndian(frame.AsSpan(6), (ushort)(source >> 32));
        BinaryPrimitives.WriteUInt32BigEndian(frame.AsSpan(8), (uint)source);
        BinaryPrimitives.WriteInt32LittleEndian(frame.AsSpan(14), sequence);
        return frame;
    }

    private sealed class Sink(int last) : IFrameReceiver
    {
        private readonly TaskCompletionSource _done = new(TaskCreationOptions.RunContinuationsAsynchronously);

        public Task Done => _done.Task;

        public void Receive(NetDevice device, int queue, in EthernetFrame frame)
        {
            if (BinaryPrimitives.ReadInt32LittleEndian(frame.Bytes[14..]) == last)
                _done.TrySetResult();
        }
    }
}
