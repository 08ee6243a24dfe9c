namespace Virtbus.Hardware.Adapter;

/// <summary>Who a function of an adapter is.</summary>
/// <param name="Id">
/// Its number in the adapter, which commands name it by: <see cref="Physical"/>, N + 1 for virtual function N; others have what they are declared
/// with (<see cref="FunctionTable.Declare"/>).
/// </param>
/// <param name="DeviceId">The device id that its driver sees; the state of one function fits others with the same.</param>
internal readonly record struct FunctionIdentity(uint Id, ushort DeviceId)
{
    /// <summary>The id of the physical function.</summary>
    public const uint Physical = 0;

    /// <summary>The id of a virtual function.</summary>
    /// <param name="index">Its number, from 0.</param>
    public static uint OfVirtual(int index) => (uint)index + 1;
}
