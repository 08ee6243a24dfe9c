using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Remote.Pci.VfioUser;
using Virtbus.Transports.VfioUser;

namespace Virtbus.Tests.Transports.VfioUser;

/// <summary>The flow of a register access from a guest, walked hop by hop as docs/architecture.md has it.</summary>
[Collection(WireCollection.Name)]
public sealed class DoorbellFlowTests
{
    [Fact]
    public async Task A_write_to_a_register_goes_by_session_handle_tool_box_and_bus_to_the_function_on_one_thread()
    {
        if (!ColdProcess.IsHere())
            return;
        var folder = Directory.CreateTempSubdirectory("virtbus");
        var world = await VfioPciWorld.NewAsync();
        var function = new WatchedFunction();
        var device = await world.PlugAsync(function);
        await using (var server = new VfioUserServer(Path.Combine(folder.FullName, "socket"), VfioPciWorld.DeviceOf(device), world.Lines.CreateLogger("test")))
        {
            server.Start();
            using var client = VfioUserClient.Connect(server.Path);
            // Memory space and DMA on.
            Assert.True(client.TryWrite(7, 4, [6, 0], out var fault), fault.Message);
            Assert.True(client.TryWrite(0, 0x100, [1, 2, 3, 4], out fault), fault.Message);
            Assert.Equal((0, 0x100UL, 4), function.Written);
            // One direction and one thread: the answer went out after the register was written.
            // The tool box between handle and bus passes the call on as its last step, so the stack does not show it.
            Hops.AreInOrder(function.Hops, "SocketServer", "VfioUserSession", "VfioUserRegisters", "VfioHandle", "PciRegion", "PciHardware", "PciFunction", "WatchedFunction");
            // Range and decode are looked at in one place on the way: the bus.
            Assert.Equal(1, function.Hops.Count(static h => h == nameof(Virtbus.Buses.Pci.PciHardware)));
            Assert.Equal("vfio-user", function.Thread);
            Assert.True(client.TryRead(0, 0x100, new byte[4], out fault), fault.Message);
            function.Written = default;
            foreach (var (offset, length) in new[] { (0x1000UL, 4), (0xFFEUL, 4), (ulong.MaxValue - 1, 4) })
            {
                Assert.False(client.TryWrite(0, offset, new byte[length], out fault));
                Assert.Equal(Errno.EINVAL, fault.Errno);
                Assert.False(client.TryRead(0, offset, new byte[length], out fault));
                Assert.Equal(Errno.EINVAL, fault.Errno);
            }

            Assert.False(client.TryWrite(7, 0xFFE, new byte[4], out fault));
            Assert.Equal(default, function.Written);
            // Range and decode are the bus's: with memory space off nothing reaches the function.
            Assert.True(client.TryWrite(7, 4, [4, 0], out fault), fault.Message);
            function.Written = default;
            client.TryWrite(0, 0x104, [1, 2, 3, 4], out _);
            Assert.Equal(default, function.Written);
        }

        folder.Delete(recursive: true);
    }

    private sealed class WatchedFunction() : PciFunction(ConfigSpaceBuilder.Function(0x5642, 0x7778).Class(0xFF0000).MemoryBar64(0, 0x1000, prefetchable: false)
        .Express(new PciExpressOptions { HasFunctionLevelReset = true }).Build())
    {
        internal (int Bar, ulong Offset, int Length) Written { get; set; }

        internal IReadOnlyList<string> Hops { get; private set; } = [];

        internal string? Thread { get; private set; }

        protected override void OnReset(PciResetKind kind)
        {
        }

        protected override void ReadRegister(int bar, ulong offset, Span<byte> destination) => destination.Clear();

        protected override void WriteRegister(int bar, ulong offset, ReadOnlySpan<byte> source)
        {
            Written = (bar, offset, source.Length);
            Hops = Tests.Hops.Here();
            Thread = System.Threading.Thread.CurrentThread.Name;
        }
    }
}
