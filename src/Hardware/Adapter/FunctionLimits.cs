namespace Virtbus.Hardware.Adapter;

/// <summary>What one function of an adapter has.</summary>
/// <param name="NetworkParts">How many network parts it is capable of.</param>
/// <param name="VdpaParts">How many vDPA parts.</param>
/// <param name="QueueSets">How many queue sets can be made.</param>
/// <param name="Vectors">MSI-X vectors.</param>
/// <param name="Windows">Virtio windows.</param>
/// <param name="VirtualFunctions">How many virtual functions can be enabled; 0 for one of them.</param>
internal readonly record struct FunctionLimits(int NetworkParts, int VdpaParts, int QueueSets, int Vectors, int Windows, int VirtualFunctions)
{
    /// <summary>As the register <see cref="AdapterRegister.Parts"/> says it.</summary>
    public ulong PartsWord => (uint)NetworkParts | ((ulong)(uint)VdpaParts << 16);

    /// <summary>As the register <see cref="AdapterRegister.Queues"/> says it.</summary>
    public ulong QueuesWord => (uint)QueueSets | ((ulong)QueueSetState.MaxLog << 16) | ((ulong)(uint)Vectors << 32);

    /// <summary>As the register <see cref="AdapterRegister.Windows"/> says it.</summary>
    /// <param name="id">The function's id.</param>
    public ulong WindowsWord(uint id) => (uint)Windows | ((ulong)(uint)VirtualFunctions << 16) | ((ulong)(ushort)id << 32);
}
