using System.Buffers.Binary;
using System.Diagnostics;
using System.Net;
using System.Net.NetworkInformation;
using System.Net.Sockets;
using Virtbus.Buses.Auxiliary;
using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Daemon.Manifest;
using Virtbus.Ethernet;
using Virtbus.Subsystems.Net;
using Virtbus.Daemon.Provisioning;
using Adapter = Virtbus.Daemon.Provisioning.Adapter;

namespace Virtbus.Tests.Cli;

/// <summary>An adapter that is joined to a TAP interface of the host.</summary>
public sealed class TapTests
{
    private const ushort TestEtherType = 0x88B5;

    [Fact]
    public async Task Frames_go_from_the_host_to_a_part_and_back()
    {
        Assert.SkipUnless(Environment.UserName == "root" && File.Exists("/dev/net/tun"), "A TAP interface needs root and /dev/net/tun.");
        var tap = $"vbt{Environment.ProcessId % 100000}";
        var fabric = new Fabric();
        fabric.RegisterBus(new AuxiliaryBus());
        fabric.RegisterBus(new PciBus());
        using var loader = new ModuleLoader(fabric, Path.Combine(Path.GetDirectoryName(TestFabric.Program)!, "modules"), watch: false);
        var manifest = ManifestReader.ReadText($"adapters: [{{ name: adapter0, model: merlin, tap: {tap} }}]", "/tap.yaml").Adapters[0];
        await using (await Adapter.CreateAsync(fabric, manifest, new NamedSwitches()))
        {
            await fabric.SettleAsync();
            Assert.True(NetSubsystem.Of(fabric).Class.TryGetDevice("adapter0np0", out var device));
            var part = (NetDevice)device;
            var sink = new Sink();
            part.AddReceiver(sink);
            using (var up = Process.Start("ip", ["link", "set", tap, "up"]))
                await up.EndsAsync();
            using var host = new Socket(AddressFamily.Packet, SocketType.Raw, (ProtocolType)BinaryPrimitives.ReverseEndianness(TestEtherType));
            host.Bind(new LinkEndPoint(File.ReadAllText($"/sys/class/net/{tap}/ifindex")));

            host.Send(Frame(destination: 0xFFFFFFFFFFFF, source: 0x020000000077, mark: 1));
            Assert.Equal(1, await sink.Mark.WaitAsync(TestFabric.Deadline));
            Assert.True(part.TryTransmit(Frame(destination: 0x020000000077, source: part.Address, mark: 2), out _));
            var buffer = new byte[128];
            using var deadline = new CancellationTokenSource(TestFabric.Deadline);
            while (await host.ReceiveAsync(buffer, deadline.Token) > 0 && buffer[14] != 2)
            {
                // Our own broadcast, as the host's stack shows it to us.
            }
        }
        Assert.DoesNotContain(NetworkInterface.GetAllNetworkInterfaces(), i => i.Name == tap);
        await loader.UnloadAllAsync();
    }

    private static byte[] Frame(ulong destination, ulong source, byte mark)
    {
        var frame = new byte[60];
        BinaryPrimitives.WriteUInt64BigEndian(frame, destination << 16);
        BinaryPrimitives.WriteUInt64BigEndian(frame.AsSpan(6), source << 16);
        BinaryPrimitives.WriteUInt16BigEndian(frame.AsSpan(12), TestEtherType);
        frame[14] = mark;
        return frame;
    }

    private sealed class Sink : IFrameReceiver
    {
        private readonly TaskCompletionSource<int> _mark = new(TaskCreationOptions.RunContinuationsAsynchronously);

        public Task<int> Mark => _mark.Task;

        // The host's own chatter on a new interface (IPv6, for one) is none of ours.
        public void Receive(NetDevice device, int queue, in EthernetFrame frame)
        {
            if (BinaryPrimitives.ReadUInt16BigEndian(frame.Bytes[12..]) == TestEtherType)
                _mark.TrySetResult(frame.Bytes[14]);
        }
    }

    // struct sockaddr_ll (packet(7)): family, protocol, interface index; the rest is for sending to an address.
    private sealed class LinkEndPoint(string index) : EndPoint
    {
        public override AddressFamily AddressFamily => AddressFamily.Packet;

        public override SocketAddress Serialize()
        {
            var address = new SocketAddress(AddressFamily.Packet, 20);
            BinaryPrimitives.WriteUInt16BigEndian(address.Buffer.Span[2..], TestEtherType);
            BinaryPrimitives.WriteInt32LittleEndian(address.Buffer.Span[4..], int.Parse(index));
            return address;
        }
    }
}
