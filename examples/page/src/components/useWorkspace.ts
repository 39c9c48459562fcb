import { inject } from "vue";
import { WORKSPACE, type Workspace } from "../state/workspace";

export function useWorkspace(): Workspace {
  const workspace = inject(WORKSPACE);
  if (!workspace) throw new Error("a component was used outside of ChatScreen");
  return workspace;
}
