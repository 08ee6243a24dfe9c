using System.Diagnostics;
using Virtbus.Platform;
using Virtbus.Virtio;
using static Virtbus.Virtio.VirtioCommonConfig;

namespace Virtbus.Tests.Virtio;

/// <summary>A device behind slow registers that never gets there: who waits for it waits for a time, and not for a number of answers.</summary>
public sealed class VirtioRegisterPatienceTests
{
    private static readonly TimeSpan Patience = TimeSpan.FromMilliseconds(1);

    [Fact]
    public void Reset_that_does_not_end_is_waited_for_by_time()
    {
        var registers = new SlowRegisters { Status = VirtioStatus.ACKNOWLEDGE };
        var driver = new VirtioRegisterTransport(registers) { ResetPatience = Patience };
        registers.Reads = 0;
        Assert.False(driver.TryReset(out var fault));
        Assert.Equal(Errno.ETIMEDOUT, fault.Errno);
        Assert.InRange(registers.Reads, 2, 5);
    }

    [Fact]
    public void Reset_that_ends_late_is_seen_by_the_last_look()
    {
        var registers = new SlowRegisters { Status = VirtioStatus.ACKNOWLEDGE };
        var driver = new VirtioRegisterTransport(registers) { ResetPatience = Patience };
        registers.Reads = 0;
        registers.OnRead = reads => registers.Status = reads < 3 ? VirtioStatus.ACKNOWLEDGE : (byte)0;
        Assert.True(driver.TryReset(out _));
    }

    [Fact]
    public void Configuration_that_changes_at_each_read_is_read_by_time()
    {
        var registers = new SlowRegisters();
        var driver = new VirtioRegisterTransport(registers) { ResetPatience = Patience };
        registers.Reads = 0;
        registers.OnRead = _ => registers.Generation++;
        Assert.False(driver.TryReadConfig(0, new byte[4], out var fault));
        Assert.Equal(Errno.EAGAIN, fault.Errno);
        Assert.InRange(registers.Reads, 4, 10);
    }

    [Theory]
    [InlineData(VirtioStatus.ACKNOWLEDGE | VirtioStatus.DRIVER | VirtioStatus.FEATURES_OK)]
    [InlineData(VirtioStatus.ACKNOWLEDGE | VirtioStatus.DRIVER | VirtioStatus.FAILED)]
    public void Device_that_goes_while_its_status_is_set_is_gone(int wanted)
    {
        var registers = new SlowRegisters { Status = VirtioStatus.ACKNOWLEDGE | VirtioStatus.DRIVER };
        var driver = new VirtioRegisterTransport(registers);
        registers.OnWrite = () => registers.Status = 0xFF;
        Assert.False(driver.TrySetStatus((byte)wanted, out var fault));
        Assert.Equal(Errno.ENODEV, fault.Errno);
    }

    // Each answer takes longer than anybody has patience.
    private sealed class SlowRegisters : IVirtioRegisterAccess
    {
        internal byte Status { get; set; }

        internal byte Generation { get; set; }

        internal int Reads { get; set; }

        internal Action<int>? OnRead { get; set; }

        internal Action? OnWrite { get; set; }

        public void Read(int offset, Span<byte> destination)
        {
            destination.Clear();
            Answer();
            destination[0] = offset == device_status ? Status : offset == config_generation ? Generation : (byte)0;
        }

        public void Write(int offset, ReadOnlySpan<byte> source) => OnWrite?.Invoke();

        public void ReadConfig(int offset, Span<byte> destination)
        {
            Answer();
            destination.Clear();
        }

        public void WriteConfig(int offset, ReadOnlySpan<byte> source)
        {
        }

        private void Answer()
        {
            Reads++;
            OnRead?.Invoke(Reads);
            var start = Stopwatch.GetTimestamp();
            while (Stopwatch.GetElapsedTime(start) <= Patience)
                Thread.SpinWait(1);
        }
    }
}
