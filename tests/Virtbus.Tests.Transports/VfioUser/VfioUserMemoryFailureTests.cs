using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Remote.Pci.VfioUser;
using static Virtbus.Tests.WireMessages;

namespace Virtbus.Tests.Transports.VfioUser;

/// <summary>A client's memory that fails by an exception.</summary>
[Collection(WireCollection.Name)]
public sealed class VfioUserMemoryFailureTests
{
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Memory_that_throws_ends_the_connection_and_holds_up_no_dispose(bool twin)
    {
        using var fixture = new WireFixture();
        var client = fixture.Connect(new VfioUserClientOptions { TwinSocket = twin });
        Assert.True(client.TryMapDma(new IovaRange(new Iova(Base), 0x1000), new Throwing(), DmaAccess.ReadWrite, out var fault), fault.Message);
        // The one who happens to read meets it: a thread of the client, or the caller.
        Record.Exception(() =>
        {
            client.TryWrite(0, WireDevice.DmaAddress, BitConverter.GetBytes(Base), out _);
            client.TryWrite(0, WireDevice.DmaLength, BitConverter.GetBytes(4), out _);
            client.TryWrite(0, WireDevice.DmaCommand, BitConverter.GetBytes(WireDevice.ReadThere), out _);
        });
        WireFixture.Until(() => !client.IsConnected, "the end of the connection");
        Task.Run(client.Dispose, TestContext.Current.CancellationToken).Ends("the dispose", () => fixture.Log.Text);
        fixture.WaitIdle(1);
    }

    private sealed class Throwing : IRemoteMemory
    {
        public bool TryRead(Iova address, Span<byte> destination, out Fault fault) => throw new InvalidOperationException("bug");

        public bool TryWrite(Iova address, ReadOnlySpan<byte> source, out Fault fault) => throw new InvalidOperationException("bug");
    }
}
