using System.Buffers.Binary;
using Virtbus.Ethernet;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Models.VirtioConsole;
using Virtbus.Models.VirtioNet;
using Virtbus.Models.VirtioRng;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;
using static Virtbus.Virtio.VirtioCommonConfig;

namespace Virtbus.Tests.Hardware.Virtio;

/// <summary>Whatever a driver writes into the registers, the state that a function has by that is taken by another one of its kind.</summary>
public sealed class VirtioSavedStateTests
{
    private const int Seeds = 1000;
    private readonly EthernetSwitch _network = new();

    [Fact]
    public void State_after_any_writes_is_taken_by_another_one()
    {
        for (var seed = 0; seed < Seeds; seed++)
        {
            var random = new Random(seed);
            var (kind, isTransitional) = (random.Next(4), random.Next(2) == 0);
            using var one = Make(kind, isTransitional);
            using var other = Make(kind, isTransitional);
            for (var writes = random.Next(20, 150); writes > 0; writes--)
                WriteAny(one, random, isTransitional);
            Move(one, other, $"seed {seed}");
        }
    }

    [Fact]
    public void Queue_that_is_not_enabled_has_nothing_of_the_ring_that_was_refused()
    {
        using var one = Make(0, false);
        using var other = Make(0, false);
        // Packed rings and a feature without the one that it needs.
        TakeFeatures(one, 1u << VirtioNetConfig.VIRTIO_NET_F_GUEST_TSO4, 1 | 4);
        Assert.Equal(VirtioFeatures.None, one.Device.DriverFeatures);
        Write(one, queue_size, 2, 100);
        Write(one, queue_enable, 2, 1);
        Assert.False(one.Device.IsQueueReady(0));
        TakeFeatures(one, 0, 1);
        Write(one, device_status, 1, VirtioCard.Running);
        Move(one, other, "refused features");
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Size_and_state_of_a_packed_ring_are_no_split_rings(bool ofState)
    {
        using var device = new VirtioNetDevice("net", _network, new VirtioNetOptions(2) { Packed = true });
        using var other = new VirtioNetDevice("net", _network, new VirtioNetOptions(2) { Packed = true });
        var packed = VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_VERSION_1, VirtioFeatures.VIRTIO_F_RING_PACKED);
        Assert.True(device.TrySetStatus(VirtioStatus.ACKNOWLEDGE | VirtioStatus.DRIVER, out _));
        Assert.True(device.TrySetDriverFeatures(packed, out _));
        if (ofState)
            Assert.True(device.TrySetQueueState(0, QueueState.Beginning(isPacked: true), out _));
        else
            Assert.True(device.TrySetQueueSize(0, 100, out _));
        Assert.True(device.TrySetDriverFeatures(VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_VERSION_1), out _));
        Assert.True(device.TrySetStatus(VirtioStatus.ACKNOWLEDGE | VirtioStatus.DRIVER | VirtioStatus.FEATURES_OK, out _));
        Assert.False(device.TrySetQueueReady(0, true, out var fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
        Assert.True(device.TryPause(out _));
        Assert.True(other.TryPause(out _));
        var state = new StateWriter();
        Assert.True(device.TrySave(state, out _));
        Assert.True(StateReader.TryRead(state.ToArray(), 1 << 20, out var reader, out _));
        Assert.True(other.TryRestore(reader, out fault), fault.Message);
    }

    private static void TakeFeatures(VirtioFunction function, uint low, uint high)
    {
        Write(function, device_status, 1, VirtioStatus.ACKNOWLEDGE | VirtioStatus.DRIVER);
        Write(function, driver_feature_select, 4, 0);
        Write(function, driver_feature, 4, low);
        Write(function, driver_feature_select, 4, 1);
        Write(function, driver_feature, 4, high);
        Write(function, device_status, 1, VirtioStatus.ACKNOWLEDGE | VirtioStatus.DRIVER | VirtioStatus.FEATURES_OK);
    }

    private static void Move(VirtioFunction one, VirtioFunction other, string what)
    {
        Assert.True(one.TryPause(out _));
        Assert.True(other.TryPause(out _));
        var state = new StateWriter();
        Assert.True(one.TrySave(state, out var fault), $"{what}: {fault.Message}");
        Assert.True(StateReader.TryRead(state.ToArray(), 1 << 20, out var reader, out fault), $"{what}: {fault.Message}");
        Assert.True(other.TryRestore(reader, out fault), $"{what}: {fault.Message}");
        Span<byte> before = stackalloc byte[VirtioCommonConfig.Size];
        Span<byte> after = stackalloc byte[VirtioCommonConfig.Size];
        one.ReadBar(4, 0, before);
        other.ReadBar(4, 0, after);
        Assert.True(before.SequenceEqual(after), $"{what}: {Convert.ToHexString(before)}, then {Convert.ToHexString(after)}");
    }

    private static void WriteAny(VirtioFunction function, Random random, bool isTransitional)
    {
        switch (random.Next(isTransitional ? 12 : 9))
        {
            case 0:
                Write(function, device_status, 1, random.Next(20) switch { 0 => 0ul, < 4 => 3ul, < 15 => 11ul, < 17 => 15ul, _ => (ulong)random.Next(256) });
                break;
            case 1:
                // Those that go together, one without what it needs, any.
                var low = random.Next(3) switch { 0 => 0u, 1 => 1u << VirtioNetConfig.VIRTIO_NET_F_GUEST_TSO4, _ => (uint)random.NextInt64() };
                Write(function, driver_feature_select, 4, (ulong)random.Next(3));
                Write(function, driver_feature, 4, (ulong)random.NextInt64());
                Write(function, driver_feature_select, 4, 0);
                Write(function, driver_feature, 4, low & function.Device.DeviceFeatures.Word(0));
                Write(function, driver_feature_select, 4, 1);
                Write(function, driver_feature, 4, 1u | ((uint)random.Next(2) << 2));
                break;
            case 2:
                Write(function, queue_select, 2, (ulong)random.Next(6));
                break;
            case 3:
                Write(function, queue_size, 2, random.Next(2) == 0 ? (ulong)random.Next(300) : 1ul << random.Next(9));
                break;
            case 4:
                Write(function, queue_enable, 2, random.Next(4) == 0 ? 0ul : 1);
                break;
            case 5:
                Write(function, random.Next(queue_desc, queue_notify_data) & ~3, random.Next(2) == 0 ? 4 : 8, (ulong)random.Next());
                break;
            case 6:
                Write(function, random.Next(VirtioCommonConfig.Size), 1 << random.Next(4), (ulong)random.NextInt64());
                break;
            case 7:
                Write(function, 0x2000 + random.Next(32), 1 << random.Next(3), (ulong)random.Next());
                break;
            case 8:
                Write(function, config_msix_vector, 2, (ulong)random.Next(8));
                Write(function, queue_msix_vector, 2, (ulong)random.Next(8));
                break;
            default:
                var value = random.Next(2) == 0 ? (ulong)random.Next(16) : (ulong)random.Next();
                Write(function, random.Next(4) switch { 0 => 18, 1 => 8, 2 => 14, _ => random.Next(30) }, 1 << random.Next(3), value, bar: 0);
                break;
        }
    }

    private static void Write(VirtioFunction function, int offset, int size, ulong value, int bar = 4)
    {
        Span<byte> bytes = stackalloc byte[sizeof(ulong)];
        BinaryPrimitives.WriteUInt64LittleEndian(bytes, value);
        function.WriteBar(bar, (ulong)offset, bytes[..size]);
    }

    private VirtioFunction Make(int kind, bool isTransitional)
    {
        VirtioDevice device = kind switch
        {
            0 or 1 => new VirtioNetDevice("net", _network, new VirtioNetOptions(2) { Packed = true, QueuePairs = kind + 1 }),
            2 => new VirtioRngDevice("rng"),
            _ => new VirtioConsoleDevice("console"),
        };
        return new VirtioFunction(device, new VirtioFunctionOptions { IsTransitional = isTransitional });
    }
}
